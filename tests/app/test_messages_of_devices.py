"""Every message that can leave a device: none holds a value of the device's data.

An exception that this project raises on purpose leaves with its text: the first test
walks through all of these in the modules that see a device's data. Any other leaves
with kind and place only (``tests/flower/test_app_errors.py``).
"""

import ast
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

import client_app
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.task import load_task
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.app.tiny import settings_of, texts, write_jsonl

ROOT = Path(client_app.__file__).parent
SEE_DATA = [
    "client_app.py",
    "flasc_flwr/app/config/node.py",
    *("flasc_flwr/app/tasks", "flasc_flwr/app/training"),
    *(
        f"flasc_flwr/flower/{name}.py"
        for name in ("mod", "device_errors", "app_errors")
    ),
    *(f"flasc_flwr/flower/{name}.py" for name in ("device_limits", "node_config")),
    *(
        f"flasc_flwr/flower/transport/{name}.py"
        for name in ("client", "form", "parcel")
    ),
    *(f"flasc_flwr/core/{name}.py" for name in ("clipping", "finite", "layout")),
]

VALUES = {
    *("label", "labels", "text", "texts", "value", "values", "one", "cell", "user"),
    *("users", "row_of", "image", "images", "item", "entry", "content", "line", "word"),
    *("token", "update", "vector", "trained", "given_label", "found_label", "example"),
}
"""Names that hold, or may hold, what is in the data."""

ONLY_ABOUT = {"len", "type", "kind_of", "is_empty", "cell"}
"""Calls that say of a value how long it is, or what kind."""

DESCRIBES = {"shape", "dtype", "mode", "size", "ndim", "kind", "name", "__name__"}
"""Attributes that say what kind of thing a value is."""

OF_SETTINGS = {
    ("flasc_flwr/app/tasks/flasc_dirichlet.py", "value"),
    ("flasc_flwr/app/training/start.py", "printable(value, 40)"),
}
"""Not data, but settings of the run or of a start adapter."""

QUOTES_AN_ERROR = {
    "flasc_flwr/app/training/device.py": "a device of torch, from the run config",
    "flasc_flwr/app/training/export.py": "a start adapter",
    "flasc_flwr/app/training/start.py": "a start adapter",
    "flasc_flwr/app/training/adapting.py": "a module of the model",
    "flasc_flwr/app/tasks/sources.py": "a model or data set of the hub",
    "flasc_flwr/app/tasks/checkpoints.py": "a model",
    "flasc_flwr/app/tasks/probing.py": "a model, on made-up inputs",
    "flasc_flwr/app/tasks/text_classification.py": "a model",
    "flasc_flwr/app/tasks/partition_rows.py": "the run's data, split over clients",
    "flasc_flwr/flower/device_errors.py": "the arrays of a message",
    "flasc_flwr/flower/device_limits.py": "the limits of the device",
    "flasc_flwr/core/layout.py": "a layout, from the server",
}
"""Where the error of a library is part of a sentence, and what it is about."""


def modules():
    for name in SEE_DATA:
        path = ROOT / name
        yield from sorted(path.glob("*.py")) if path.is_dir() else [path]


def interpolated(node):
    """Return what the text of an error has beside words; a DataError's note stays."""
    only_the_text = ast.unparse(node.func) == "DataError"
    for text in node.args[:1] if only_the_text else node.args:
        if isinstance(text, ast.Constant):
            continue
        parts = [n.value for n in ast.walk(text) if isinstance(n, ast.FormattedValue)]
        yield from parts or [text]


def names_in(expression):
    """Return the names in an expression that are not only described."""
    if isinstance(expression, ast.Call) and ast.unparse(expression.func) in ONLY_ABOUT:
        return
    if isinstance(expression, ast.Attribute) and expression.attr in DESCRIBES:
        return
    if isinstance(expression, ast.IfExp):  # the condition is not shown
        yield from names_in(expression.body)
        yield from names_in(expression.orelse)
        return
    if isinstance(expression, ast.Name):
        yield expression.id
    if isinstance(expression, ast.Attribute):
        yield expression.attr
    for child in ast.iter_child_nodes(expression):
        yield from names_in(child)


def errors(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(
            node.func, ast.Name | ast.Attribute
        ):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name.endswith("Error"):
                yield node


@pytest.mark.parametrize("path", [*modules()], ids=lambda p: str(p.relative_to(ROOT)))
def test_row_10_no_message_of_a_device_interpolates_a_value(path):
    file = str(path.relative_to(ROOT))
    for node in errors(path):
        for part in interpolated(node):
            shown = ast.unparse(part)
            where = f"{file}:{node.lineno}: {shown}"
            names = set(names_in(part))
            if (file, shown) in OF_SETTINGS:
                continue
            assert not names & VALUES, f"{where} may be a value of the device's data"
            if names & {"error", "exception", "reason"}:
                assert file in QUOTES_AN_ERROR, f"{where} may quote the data"


def test_the_walk_finds_values():
    source = (
        "raise ValueError(f'row {number} must be x, got {label!r}')\n"
        "raise DataError(f'row {number}', f'it is {label!r}')\n"
        "raise OSError(f'{kind_of(label)} {len(text)} {image.mode}')\n"
        "raise KeyError(label)\n"
    )
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    found = {
        node.func.id: {n for part in interpolated(node) for n in names_in(part)}
        & VALUES
        for node in calls
        if node.func.id.endswith("Error")
    }
    assert found == {
        "ValueError": {"label"},
        "DataError": set(),
        "OSError": set(),
        "KeyError": {"label"},
    }


SECRET = "Anna Smith 1981-03-02"


def reply_of(settings, node_config, arrays=None):
    """Return what a device's app answers to a message that asks it to train."""
    LocalGrid(client_app.app, 1)
    content = {
        "arrays": array_record(arrays or {}),
        "config": ConfigRecord({"server-round": 1}),
    }
    context = Context(0, 1, node_config, state=RecordDict(), run_config=settings)
    return client_app.app(Message(RecordDict(content), 1, "train"), context)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("anna.csv", f"text,label\n{SECRET},{SECRET}\n"),
        ("anna.csv", f'text,label\n"{SECRET},1\n'),
        ("anna.csv", f"text,label\n{SECRET},1,2,3\n{SECRET},1\n"),
        ("anna.csv", f"text\n{SECRET}\n"),
        ("anna.jsonl", f'{{"text": "{SECRET}", "label": \n'),
        ("anna.jsonl", f'{{"text": "{SECRET}", "label": "{SECRET}"}}\n'),
        ("anna.jsonl", f'{{"text": 1, "label": 1}}\n{{"text": ["{SECRET}"]}}\n'),
        ("anna.parquet", SECRET),
        ("anna.npz", SECRET),
        ("anna.txt", SECRET),
    ],
)
@pytest.mark.parametrize("names", ["", "no,yes"])
def test_row_10_no_broken_file_leaves_its_device(tmp_path, bert, name, text, names):
    rows = write_jsonl(tmp_path / "server.jsonl", texts(8))
    settings = settings_of(
        task="text-classification",
        model=str(bert),
        dataset=str(rows),
        test_split="train[4:]",
        **({"class_names": names} if names else {"classes": 2}),
    )
    load_task.cache_clear()
    own = tmp_path / "private folder" / name
    own.parent.mkdir()
    own.write_text(text)
    settings = RunConfig.parse(settings).to_dict()
    with pytest.raises(ValueError) as raised:
        reply_of(settings, {"data-path": str(own)})
    said = str(raised.value)
    for secret in ("Anna", "1981", "anna", "private", str(tmp_path)):
        assert secret not in said, said
    assert said.isprintable() and len(said) <= 300


def test_row_10_no_path_of_a_device_leaves_it(tmp_path, bert):
    rows = write_jsonl(tmp_path / "server.jsonl", texts(8))
    settings = settings_of(
        task="text-classification", model=str(bert), dataset=str(rows), classes=2
    )
    load_task.cache_clear()
    settings = RunConfig.parse(settings).to_dict()
    for path in (f"/nowhere/{SECRET}.csv", f"{tmp_path}/{SECRET}", "~/anna.csv"):
        with pytest.raises(ValueError) as raised:
            reply_of(settings, {"data-path": path})
        assert "Anna" not in str(raised.value) and "anna" not in str(raised.value)
        assert "data-path" in str(raised.value)

"""A table means the same as CSV, JSON lines and Parquet, on every device."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.app.files import pairs, tables_of

pytestmark = pytest.mark.usefixtures("cache")

WORDS = [
    *("null", "None", "NA", "nan", "NaN", "N/A", "true", "False", "-", "#"),
    *("7", "007", "1.0", "1e5", "2020-01-01", "inf", "[1]", '{"a": 1}', "''", '""'),
    *('say "hi"', "a, b", "two\nlines", "two\r\nlines", "old\rline", "\t", " a "),
    *("", "é", "e\u0301", "漢字", "🙂", "\u2028", "\x00", "\ufeff", "\\n", "'"),
]
texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]))
LABELS = {
    "names": ["null", "None", "a, b", 'say "hi"', "é", "7", "nan"],
    "booleans": [False, True],
    "integers": [1, 2, 3, 40],
    "fractions": [0.0, 1.0, 2.5],
    "numbers as text": ["3", "1.0", "02", "-4"],
}
"""Labels that are named, by what type files give them."""


@st.composite
def tables(draw):
    """Return the settings of a run, and rows of text, label and user."""
    kind = draw(st.sampled_from([*LABELS, "indices", "indices as text"]))
    if kind in LABELS:
        labels = LABELS[kind]
        names = draw(st.permutations([str(label) for label in labels]))
        wanted = {"class_names": json.dumps(names)}
    else:
        labels = [str(n) if "text" in kind else n for n in range(3)]
        wanted = {}
    users = draw(st.sampled_from([["u", "v, w", "null"], [1, 2, 10]]))
    row = st.tuples(texts, st.sampled_from(labels), st.sampled_from(users))
    rows = draw(st.lists(row, min_size=1, max_size=8))
    # Without names, classes are counted; every user is there, for a client each.
    rows += [("last", label, user) for label in labels for user in users]
    return wanted, rows


def write_all(folder, rows):
    """Write rows as files of each format; return their paths."""
    columns = ("text", "label", "user")
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    with (folder / "x.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "x.jsonl").write_text("".join(lines))
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "x.json").write_text(f"[{','.join(lines)}]", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), folder / "x.parquet")
    return sorted(folder.glob("x.*"))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(table=tables())
def test_every_format_gives_every_device_the_same_examples(tmp_path_factory, table):
    wanted, rows = table
    paths = write_all(tmp_path_factory.mktemp("table"), rows)
    assert len(paths) == 4
    run = {"partitioner": "natural-id", "user_column": "user"} | wanted
    given_text = [text for text, _, _ in rows]
    names = json.loads(wanted.get("class_names", "[]"))
    for path in paths:
        tables = tables_of(path, **run)
        clients = [pairs(tables.partition(client, 3)) for client in range(3)]
        if path == paths[0]:
            expected = clients
        assert clients == expected, path
        # A device's own file, under the run config of each.
        own = pairs(tables.local_examples(str(paths[0])))
        assert [text for text, _ in own] == given_text
        labels = [
            names.index(str(label)) if names else int(label) for _, label, _ in rows
        ]
        assert [label for _, label in own] == labels
    for path in paths:
        settings = wanted or {"classes": 3}
        assert pairs(tables_of(**settings).local_examples(str(path))) == own, path

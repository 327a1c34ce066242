"""Every block of the tutorials, at small sizes."""

import ast
import re
import shutil
import urllib.request

import pytest

from flasc_flwr.app.cli.common import parsed
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.node import check_node_config
from tests.app.tiny import save_model
from tests.docs.blocks import Reader, blocks, environment
from tests.end_to_end.processes import (
    ROOT,
    Flower,
    free_port,
    wait_for_health,
    wait_until,
)

TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = sorted(TUTORIALS.glob("*.md"))
_ROUNDS = {"num-server-rounds=20": "num-server-rounds=2 local-epochs=1 lora-rank=2"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_block_is_of_a_kind_that_is_run(page):
    for block in blocks(page):
        assert block.language in ("sh", "python", "toml", "diff", "text"), block
        if block.language == "python":
            ast.parse(block.text)
        if block.language in ("toml", "diff"):
            assert block.title, block
    # Indented code and other fences would be seen by no test.
    text = page.read_text()
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page))
    assert not re.search(r"^ {4}\S", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_of_the_commands_exist(page):
    text = re.sub(r"\\\n\s*", "", page.read_text()).replace("$HOME", "/home/me")
    text = text.replace("$PWD", "/home/me")
    for words in re.findall(r'--run-config "([^"]*)"', text):
        RunConfig.parse(parsed([words]))
    for words in re.findall(r'--node-config "([^"]*)"', text):
        check_node_config(parsed([words], "--node-config"))


@pytest.fixture
def flower(tmp_path):
    """Flower's home, with ports of its own."""
    flower = Flower(tmp_path / "home" / ".flwr")
    flower.env |= environment(tmp_path / "home")
    # A reader's shell does not have it; one tutorial exports it.
    del flower.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"]
    yield flower
    flower.stop_local_superlink()


@pytest.fixture
def checkout(tmp_path):
    """What `flwr run .` needs of the checkout."""
    folder = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("__pycache__")
    for name in ("flasc_flwr", "conf", "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("server_app.py", "client_app.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    return folder


@pytest.mark.exhaustive
def test_simulate(flower, checkout):
    watched = []

    def ready(block, log):
        wait_until(lambda: "Watching at" in log.read_text(), block.title)
        (address,) = re.findall(r"http://\S+", log.read_text())
        watched.append(urllib.request.urlopen(address).read().decode())

    smaller = _ROUNDS | {"--clients 20": "--clients 3", "--seed 0,1": "--seed 0"}
    reader = Reader(checkout, flower.env, smaller, ready)
    with reader.follow(TUTORIALS / "simulate.md") as printed:
        output = "\n".join(printed)
    (page,) = watched
    assert "1 run (1 finished)" in page
    assert re.search(r"round 2: \d+\.\d% after 0\.\d+ MB", output)
    assert "accuracy 0." in output and "int4" in output
    assert (flower.home.parent / "first-report.html").stat().st_size > 100_000


@pytest.mark.exhaustive
def test_language_model(flower, checkout, tmp_path):
    smaller = {
        "distilbert/distilbert-base-uncased": str(
            save_model(tmp_path / "classifier", "distilbert")
        ),
        "openai-community/gpt2": str(save_model(tmp_path / "decoder", "gpt2")),
        "num-server-rounds=5": "num-server-rounds=2",
    }
    reader = Reader(checkout, flower.env, smaller, lambda *_: None)
    with reader.follow(TUTORIALS / "language-model.md") as printed:
        assert "examples 60" in "".join(printed)
    assert re.search("^the cat ran", printed[-1], re.MULTILINE), printed[-1]


@pytest.mark.exhaustive
def test_plug_in(flower, checkout):
    reader = Reader(checkout, flower.env, {}, lambda *_: None)
    with reader.follow(TUTORIALS / "plug-in.md") as printed:
        logs = [text for text in printed if "accuracy" in text]
    for text in logs:
        accuracies = [float(a) for a in re.findall(r"accuracy': '([\d.e+-]+)", text)]
        assert len(accuracies) == 6 and accuracies[-1] > 0.8, text
    assert "SparseTransport" not in logs[0]
    assert re.search(r"SparseTransport: .* \([\d.]+ times\)", logs[1]), logs[1]
    sizes = [
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", printed[-1])
    ]
    assert len(sizes) == 9 and max(sizes) == sizes[0] and min(sizes) == sizes[-1]


@pytest.mark.exhaustive
def test_deploy(flower, checkout):
    port = free_port()
    smaller = {
        "8000": str(port),
        "9100": str(free_port()),
        "9101": str(free_port()),
        "num-server-rounds=3": "num-server-rounds=2",
    }

    def ready(block, log):
        if "server" in block.title:
            wait_for_health(port)

    reader = Reader(checkout, flower.env, smaller, ready)
    with reader.follow(TUTORIALS / "deploy.md") as printed:
        assert "all rounds done; accuracy" in printed[-1]
    # The second device sends a sixteenth of its update, the first a quarter.
    payloads = [int(n) for n in re.findall(r"'up', 'payload': (\d+)", printed[-1])]
    assert len(payloads) == 2 and payloads[1] < payloads[0] / 3, printed[-1]

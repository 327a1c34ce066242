"""The plug-in example in a real Ray simulation, before and after."""

import re

import pytest

from tests.end_to_end.processes import ROOT, Flower

pytestmark = pytest.mark.slow

# Two clients: the sum of two replies does not depend on which came first.
TWO = ("--federation-config", "num-supernodes=2 client-resources-num-cpus=1")


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path / "flwr")
    yield flower
    flower.stop_local_superlink()


def run(flower, tmp_path, transport, rounds):
    saved = tmp_path / transport
    settings = f"transport='{transport}' num-server-rounds={rounds} save-to='{saved}'"
    app = str(ROOT / "examples" / "plug-in")
    output = flower.run("flwr", "run", app, "--stream", *TWO, "--run-config", settings)
    assert saved.exists(), output
    assert "exception was raised" not in output, output
    return saved.read_bytes(), output


def test_an_app_is_the_same_at_density_1_and_learns_with_far_fewer_bytes(
    flower, tmp_path
):
    start, _ = run(flower, tmp_path, "none", 0)
    plain, _ = run(flower, tmp_path, "none", 2)
    assert plain != start
    exact, _ = run(flower, tmp_path, "exact", 2)
    assert plain == exact
    _, output = run(flower, tmp_path, "sparse", 8)
    accuracy = [float(a) for a in re.findall(r"'accuracy': '?([\d.e+-]+)", output)]
    assert accuracy[0] < 0.2 and max(accuracy) > 0.5, output
    (times,) = re.findall(r"SparseTransport: .*\(([\d.]+) times\)", output)
    assert float(times) > 10

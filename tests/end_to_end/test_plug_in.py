"""The plug-in example, before and after: in one process, and in a Ray simulation."""

import re
import sys

import pytest
from flwr.app import Context, RecordDict

from flasc_flwr.flower.local_grid import LocalGrid
from tests.end_to_end.processes import ROOT, Flower

pytestmark = pytest.mark.slow

APP = ROOT / "examples" / "plug-in"
# Two clients: the sum of two replies does not depend on which came first.
CLIENTS = 2


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path / "flwr")
    yield flower
    flower.stop_local_superlink()


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """Return a function that runs the example here and returns the final arrays."""
    monkeypatch.syspath_prepend(APP)
    import cnn_client
    import cnn_server

    def run(transport, rounds):
        saved = tmp_path / f"{transport}-{rounds}"
        config = {
            "transport": transport,
            "num-server-rounds": rounds,
            "save-to": str(saved),
        }
        grid = LocalGrid(cnn_client.app, CLIENTS, run_config=config)
        context = Context(
            run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config=config
        )
        cnn_server.app(grid=grid, context=context)
        return saved.read_bytes()

    yield run
    for name in ("cnn_client", "cnn_server"):
        sys.modules.pop(name, None)


def test_an_app_is_the_same_at_density_1_and_in_ray(flower, in_process, tmp_path):
    plain = in_process("none", 2)
    assert plain != in_process("none", 0)
    saved = tmp_path / "ray"
    settings = f"transport='exact' num-server-rounds=2 save-to='{saved}'"
    federation = f"num-supernodes={CLIENTS} client-resources-num-cpus=1"
    output = flower.run(
        *("flwr", "run", str(APP), "--stream", "--run-config", settings),
        *("--federation-config", federation),
    )
    assert saved.exists(), output
    assert "exception was raised" not in output, output
    assert saved.read_bytes() == plain


def test_an_app_learns_with_far_fewer_bytes(in_process, caplog):
    with caplog.at_level("INFO", "flwr"):
        in_process("sparse", 8)
    output = caplog.text
    accuracy = [float(a) for a in re.findall(r"'accuracy': '?([\d.e+-]+)", output)]
    assert accuracy[0] < 0.2 and max(accuracy) > 0.5, output
    (times,) = re.findall(r"SparseTransport: .*\(([\d.]+) times\)", output)
    assert float(times) > 10

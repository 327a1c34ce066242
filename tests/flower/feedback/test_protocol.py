"""Error feedback over messages: references stay equal, and nothing is lost."""

import pytest

from flasc_flwr import Flasc
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter
from tests.flower.feedback.patchy import PatchyGrid

NODES = 4


def strategy_of(**settings):
    usual = {
        "method": compose("flasc-ef", init="sent"),
        "download_density": 1 / 8,
        "upload_density": 1 / 8,
        "fraction_train": 1.0,
        "server_optimizer": Sgd(),
    }
    return Flasc(**usual | settings)


def run(strategy, grid, rounds):
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy


def streams(strategy):
    return [one.stream for one in strategy.state.fleet._streams.values()]


def settle(strategy, grid):
    """Return the reference's digest at the server, after the last training."""
    return streams(strategy)[0]


@pytest.mark.parametrize("init", ["sent", "shared-seed"])
@pytest.mark.parametrize("values", ["int4", "bfloat16"])
def test_references_are_equal_after_every_round(init, values):
    method = compose("flasc-ef", init=init)
    for rounds in (1, 2, 5):
        grid = PatchyGrid(NODES)
        # No evaluation: the stream stands where the last download led to.
        run(strategy_of(method=method, values=values), grid, rounds)
        strategy = strategy_of(method=method, values=values)
        grid = PatchyGrid(NODES)
        run(strategy, grid, rounds)
        assert set(grid.digests().values()) == {streams(strategy)[0].reference.digest}
        assert len(grid.digests()) == NODES

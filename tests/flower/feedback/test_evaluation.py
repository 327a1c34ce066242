"""Looking at what clients would receive does not change what they receive."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter
from tests.flower.feedback.patchy import PatchyGrid

CONFIGS = [{}, {}, {"lora-rank": 2}, {"download-density": 0.5}]


def strategy_of(**settings):
    usual = {
        "method": compose("flasc-ef", tiers="rank"),
        "download_density": 1 / 8,
        "upload_density": 1 / 8,
        "fraction_train": 0.5,
        "server_optimizer": Sgd(),
    }
    return Flasc(**usual | settings)


def run(strategy, grid, rounds=6, evaluates=True):
    seen = {}

    def evaluate(current, arrays):
        vector = np.concatenate([a.numpy().ravel() for a in arrays.values()])
        seen.setdefault(current, []).append(vector)
        return MetricRecord({"loss": 1.0})

    given = evaluate if evaluates else None
    strategy.start(grid, array_record(adapter()), rounds, evaluate_fn=given)
    return seen


def everything(strategy, grid):
    """Return the server vector, and each device's reference."""
    return strategy.state.vector.tobytes(), grid.digests()


@pytest.mark.parametrize("looks", ["seldom", "never", "by tensor", "what is received"])
def test_how_often_the_server_looks_does_not_matter(looks):
    strategy, grid = strategy_of(), PatchyGrid(4, node_configs=CONFIGS)
    run(strategy, grid)
    every = 3 if looks == "seldom" else 1
    other = strategy_of(
        evaluate_every=every,
        on_round={
            "by tensor": lambda row: other.by_tensor(),
            "what is received": lambda row: other.server.received(),
        }.get(looks),
    )
    others = PatchyGrid(4, node_configs=CONFIGS)
    run(other, others, evaluates=looks == "seldom")
    assert everything(other, others) == everything(strategy, grid)


def test_a_run_that_ended_goes_on_as_if_it_had_not():
    """Its last round was evaluated, though it would not have been."""
    whole, grid = strategy_of(evaluate_every=2), PatchyGrid(4, node_configs=CONFIGS)
    seen = run(whole, grid)
    saved, grids = [], PatchyGrid(4, node_configs=CONFIGS)
    keep = lambda checkpoint: saved.append(checkpoint.to_bytes())  # noqa: E731
    run(strategy_of(evaluate_every=2, on_checkpoint=keep), grids, 3)
    resume = Checkpoint.from_bytes(saved[-1])
    resumed = strategy_of(evaluate_every=2, resume=resume)
    again = run(resumed, grids)
    assert everything(resumed, grids) == everything(whole, grid)
    for current in (4, 6):
        np.testing.assert_array_equal(again[current], seen[current])


def test_what_is_evaluated_is_what_a_device_receives_next():
    strategy, grid = strategy_of(fraction_train=1.0), PatchyGrid(4)
    held = {}

    def on_round(row):
        flat = strategy.server.downloads.whole(strategy.server.most)
        held[row["round"]] = flat, grid.memory(3)

    strategy = strategy_of(on_round=on_round, fraction_train=1.0)
    run(strategy, grid)
    for current in range(1, 6):
        received, (_, memory) = held[current][0], held[current + 1]
        np.testing.assert_array_equal(received, memory.reference.vector)

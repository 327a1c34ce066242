"""Adapters whose modules have unequal ranks, as with PEFT's ``rank_pattern``."""

import numpy as np
import pytest

from flasc_flwr import Flasc
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app


def unequal():
    rng = np.random.default_rng(0)
    arrays = {}
    for name, rank in {"wide": 4, "narrow": 2}.items():
        arrays[f"{name}.lora_A.weight"] = rng.standard_normal((rank, 8), np.float32)
        arrays[f"{name}.lora_B.weight"] = np.zeros((6, rank), np.float32)
    return arrays


METHODS = ["dense", "flasc", "hetlora", "flexlora", "flora", "fedex-lora", "rolora"]


@pytest.mark.parametrize("method", METHODS)
def test_every_reply_is_taken(method):
    budgets = [{"lora-rank": 3}, {"lora-rank": 1}, {}]
    grid = LocalGrid(client_app(), 3, node_configs=budgets)
    strategy = Flasc(method=method, fraction_train=1.0)
    strategy.start(grid=grid, initial_arrays=array_record(unequal()), num_rounds=2)
    assert [row["replies"] for row in strategy.state.history[1:]] == [3, 3]
    for row in strategy.state.history[1:]:
        assert not row["failures"] and not row.get("rejections"), row


def test_ranks_above_the_adapters_are_one_budget():
    """Each counts as the adapter's rank: however many there are, none is lowered."""
    configs = [{"lora-rank": rank} for rank in (2, *range(4, 24))]
    grid = LocalGrid(client_app(), len(configs), node_configs=configs)
    strategy = Flasc(fraction_train=1.0, method="flasc")
    strategy.start(grid, array_record(adapter(rank=4)), 1)
    assert strategy.state.history[1]["ranks"] == {"2": 1, "4": 20}

"""Flasc runs its rounds itself: the steps of Flower's loop are never without effect."""

import pytest
from flwr.app import ArrayRecord, ConfigRecord

from flasc_flwr import Flasc
from flasc_flwr.flower.local_grid import LocalGrid
from tests.flower.apps import client_app


def test_a_step_of_flowers_loop_is_refused_with_the_way_out():
    grid = LocalGrid(client_app(), 2)
    strategy = Flasc()
    calls = {
        "configure_train": lambda: strategy.configure_train(
            1, ArrayRecord(), ConfigRecord(), grid
        ),
        "aggregate_train": lambda: strategy.aggregate_train(1, []),
        "configure_evaluate": lambda: strategy.configure_evaluate(
            1, ArrayRecord(), ConfigRecord(), grid
        ),
        "aggregate_evaluate": lambda: strategy.aggregate_evaluate(1, []),
    }
    for step, call in calls.items():
        with pytest.raises(RuntimeError, match=f"{step}.* start.*SparseTransport"):
            call()


def test_a_subclass_cannot_override_a_step():
    with pytest.raises(TypeError, match=r"Mine\.configure_train would never be called"):

        class Mine(Flasc):
            def configure_train(self, server_round, arrays, config, grid):
                return []


def test_a_subclass_may_add_what_it_likes():
    class Named(Flasc):
        name = "mine"

    assert Named().name == "mine"

"""Supports that stay are those of what devices were sent, not of what was looked at."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app
from tests.flower.fleet import Fleet

CONFIGS = [{"lora-rank": 2}, {"lora-rank": 2}, {"lora-rank": 3}, {}]


def restless(arrays, client, current):
    """Stand in for training in which the largest entries are never the same."""
    rng = np.random.default_rng([client, current])
    return {name: rng.standard_normal(a.shape) for name, a in arrays.items()}


def vector(evaluate_every=1, looks=None, evaluates=True):
    strategy = Flasc(
        method="sparse-adapter",
        fraction_train=0.5,
        evaluate_every=evaluate_every,
        server_optimizer=Sgd(),
        on_round=lambda row: looks and looks(strategy),
    )
    strategy.start(
        Fleet(4, node_configs=CONFIGS, app=client_app(restless)),
        array_record(adapter()),
        6,
        evaluate_fn=(lambda *_: MetricRecord({"loss": 1.0})) if evaluates else None,
    )
    return strategy.state.vector


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"evaluate_every": 3},
        {"looks": Flasc.by_tensor, "evaluates": False},
    ],
)
def test_how_often_the_server_looks_does_not_matter(settings):
    np.testing.assert_array_equal(vector(**settings), vector(evaluates=False))

"""Median, trimmed mean and Krum see whole updates; clients have few labels each."""

from functools import partial

import pytest
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, FedMedian

from flasc_flwr import SparseTransport
from flasc_flwr.flower.transport.robust import comparing
from tests.plug_in import digits_app
from tests.plug_in.digits_app import digits_client, few_labels, learn, network, sgd
from tests.plug_in.strategies import FIXED, STRATEGIES

NODES = 10
APP = partial(
    digits_client,
    partial(sgd, lr=0.1, examples=partial(few_labels, nodes=NODES)),
)
ROBUST = {"FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"}


@pytest.fixture(autouse=True)
def ten_clients(monkeypatch):
    monkeypatch.setattr(digits_app, "NODES", NODES)


def accuracy_of(kind, transport=None):
    return learn(
        kind(fraction_evaluate=0.0),
        APP,
        transport=transport,
        arrays=network(64),
        rounds=6,
    )


@pytest.mark.parametrize("kind", [FedMedian, flower.FedTrimmedAvg])
def test_fault_10_a_robust_strategy_learns_as_without_the_wrapper(kind, logged):
    plain, _, _ = accuracy_of(kind)
    wrapped, strategy, _ = accuracy_of(kind, {})
    name = kind.__name__
    assert f"upload (1), as {name} compares replies" in logged()
    assert "do not hold does not move" not in logged()
    sparse, _, _ = accuracy_of(kind, {"upload_density": 1 / 16})
    print(f"{name}: {plain:.3f} plain, {wrapped:.3f}, {sparse:.3f} sparse")
    assert wrapped == pytest.approx(plain, abs=0.01)
    assert sparse < plain - 0.1
    assert f"{name} compares replies, and an entry that most of them do" in logged()


def test_fault_10_every_robust_strategy_is_recognised_also_inside_of_others():
    found = {name for name, make in STRATEGIES.items() if comparing(make())}
    assert found == ROBUST

    class Own(FedMedian):
        pass

    class Around(FedAvg):
        def __init__(self, base):
            super().__init__()
            self.base = base

    private = flower.DifferentialPrivacyServerSideFixedClipping
    inner = Around(private(Own(), num_sampled_clients=4, **FIXED))
    assert comparing(inner) == "Own"
    inner.base.strategy.base = inner  # a circle ends
    assert comparing(inner) == "Own"
    assert comparing(Around(FedAvg())) is None


def test_fault_10_bytes_bound_the_uploads_of_a_robust_strategy():
    _, strategy, _ = accuracy_of(FedMedian, {"upload_bytes": 1000})
    up = [s for s in strategy.traffic.sent if s.direction == "up"]
    assert all(950 < s.payload <= 1000 for s in up)
    assert isinstance(strategy, SparseTransport)

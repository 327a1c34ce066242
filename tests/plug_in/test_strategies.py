"""Apps that do not know this project, under every strategy of Flower's."""

import numpy as np
import pytest

from tests.plug_in.runs import LOSSLESS, run
from tests.plug_in.strategies import CLIENT_MODS, STRATEGIES

QUARTER = {"download_density": 1 / 4, "upload_density": 1 / 4}

# The CNN has integers and statistics beside its weights. QFedAvg cannot scale the
# integers: there the error has to be the same, and its results on another app.
LOSSLESS_RUNS = [
    *((strategy, "cnn") for strategy in STRATEGIES),
    ("QFedAvg", "logistic"),
    ("FedAvg", "logistic"),
    ("FedAvg", "lora"),
]

# One strategy for each way to use replies: their mean, with every app; the mean and an
# optimizer; each entry by itself; one reply chosen, or several; losses beside arrays;
# subclasses; wrappers, that work on the server or with a mod.
SPARSE_RUNS = [
    ("FedAvg", "cnn"),
    ("FedAvg", "logistic"),
    ("FedAvg", "lora"),
    ("FedAdam", "lora"),
    ("FedMedian", "cnn"),
    ("Krum", "logistic"),
    ("Bulyan", "lora"),
    ("QFedAvg", "logistic"),
    ("user-defined", "lora"),
    ("server-side fixed clipping", "cnn"),
    ("client-side adaptive clipping", "lora"),
]


def outcome(app, strategy, fraction_evaluate=1.0, **settings):
    """Run an app; return the strategy and its result, or its error as text."""
    mods = CLIENT_MODS.get(strategy, [])
    made = STRATEGIES[strategy](fraction_evaluate=fraction_evaluate)
    try:
        return run(app, made, mods=mods, **settings)
    except Exception as error:
        assert (app, strategy) == ("cnn", "QFedAvg")
        return None, str(error)


@pytest.mark.parametrize(("strategy", "app"), LOSSLESS_RUNS)
def test_at_density_1_results_equal_those_without_the_wrapper(strategy, app):
    _, plain = outcome(app, strategy)
    _, wrapped = outcome(app, strategy, transport=LOSSLESS)
    if isinstance(plain, str):
        assert "Cannot cast ufunc" in plain
        assert wrapped == plain
        return
    assert len(plain.train_metrics_clientapp) == 2
    assert_same(plain, wrapped)


def assert_same(plain, wrapped):
    assert list(plain.arrays) == list(wrapped.arrays)
    for name, array in plain.arrays.items():
        assert array.dtype == wrapped.arrays[name].dtype
        assert array.shape == wrapped.arrays[name].shape
        assert array.data == wrapped.arrays[name].data
    assert plain.train_metrics_clientapp == wrapped.train_metrics_clientapp
    assert plain.evaluate_metrics_clientapp == wrapped.evaluate_metrics_clientapp
    assert plain.evaluate_metrics_serverapp == wrapped.evaluate_metrics_serverapp


@pytest.mark.parametrize(("strategy", "app"), SPARSE_RUNS)
def test_at_density_a_quarter_the_app_learns_and_bytes_are_logged(
    strategy, app, logged
):
    # The logistic regression has so few entries that it travels whole by itself.
    settings = QUARTER | ({"sparse": ["0"]} if app == "logistic" else {})
    transport, result = outcome(app, strategy, 0.0, rounds=5, transport=settings)
    accuracy = [m["accuracy"] for m in result.evaluate_metrics_serverapp.values()]
    assert accuracy[0] < 0.15
    assert np.mean(accuracy[-2:]) > {"cnn": 0.3, "logistic": 0.6, "lora": 0.3}[app]
    traffic = transport.traffic
    totals = traffic.totals()
    sent = totals["message_bytes_down"] + totals["message_bytes_up"]
    # The logistic regression has 650 parameters: its messages are mostly overhead.
    factor = {"cnn": 5, "logistic": 2, "lora": 4}[app]
    assert sent * factor < traffic.plain_bytes()
    assert f"SparseTransport: {traffic.in_words()}" in logged()

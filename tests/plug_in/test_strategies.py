"""Apps that know nothing of this project, under every strategy that Flower has."""

import numpy as np
import pytest

from tests.plug_in.runs import EXACT, run
from tests.plug_in.strategies import CLIENT_MODS, STRATEGIES

APPS = ("cnn", "logistic", "lora")
QUARTER = {"download_density": 1 / 4, "upload_density": 1 / 4}

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
each_app = pytest.mark.parametrize("app", APPS)


def outcome(app, strategy, fraction_evaluate=1.0, **settings):
    """Run an app; return what came of it, or the error that ended it."""
    mods = CLIENT_MODS.get(strategy, [])
    made = STRATEGIES[strategy](fraction_evaluate=fraction_evaluate)
    try:
        return run(app, made, mods=mods, **settings)
    except Exception as error:
        # QFedAvg cannot scale integers, such as the counters of BatchNorm.
        assert (app, strategy) == ("cnn", "QFedAvg")
        return None, str(error)


@each_app
@each_strategy
def test_at_density_1_the_results_are_those_without_the_wrapper(app, strategy):
    _, plain = outcome(app, strategy)
    _, wrapped = outcome(app, strategy, transport=EXACT)
    if isinstance(plain, str):
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
    for metrics in ("train", "evaluate"):
        name = f"{metrics}_metrics_clientapp"
        assert getattr(plain, name) == getattr(wrapped, name)
    assert plain.evaluate_metrics_serverapp == wrapped.evaluate_metrics_serverapp


@each_app
@each_strategy
def test_at_density_a_quarter_the_app_learns_and_the_bytes_are_told(
    app, strategy, logged
):
    transport, result = outcome(app, strategy, 0.0, rounds=5, transport=QUARTER)
    if isinstance(result, str):
        assert "Cannot cast ufunc" in result
        return
    accuracy = [m["accuracy"] for m in result.evaluate_metrics_serverapp.values()]
    assert accuracy[0] < 0.15
    assert np.mean(accuracy[-2:]) > {"cnn": 0.3, "logistic": 0.6, "lora": 0.3}[app]
    traffic = transport.traffic
    totals = traffic.totals()
    spent = totals["message_bytes_down"] + totals["message_bytes_up"]
    # The logistic regression has 650 parameters: its messages are mostly wrapping.
    factor = {"cnn": 5, "logistic": 2, "lora": 5}[app]
    assert spent * factor < traffic.plain_bytes()
    assert f"SparseTransport: {traffic.in_words()}" in logged()

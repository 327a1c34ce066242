"""Settings that error feedback does not go together with."""

import pytest

from flasc_flwr import Flasc
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.run_config import ConfigError
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.optimizers import FedAvgM
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app


@pytest.mark.parametrize("error_feedback", ["up", "both"])
@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("flasc-shared-mask", "uploads must be 'largest'"),
        ("flora", "aggregation must average the updates"),
        ("flexlora", "aggregation must average the updates"),
        ("fedex-lora", "aggregation must average the updates"),
    ],
)
def test_methods_without_something_to_send_later_are_refused(
    method, problem, error_feedback
):
    with pytest.raises(ValueError, match=problem):
        compose(method, error_feedback=error_feedback)
    with pytest.raises(ValueError, match=problem):
        Flasc(method=method, error_feedback=error_feedback)


@pytest.mark.parametrize("method", ["fedselect", "sparse-adapter", "adapter-lth"])
def test_methods_with_a_mask_that_stays_are_refused_with_both(method):
    with pytest.raises(ValueError, match="with error-feedback 'both'"):
        compose(method, error_feedback="both")
    assert compose(method, error_feedback="up").error_feedback == "up"


def test_a_download_density_that_changes_is_refused_with_both():
    for settings in (
        {"decay": Decay(download=0.9)},
        {"method": compose("flasc-ef", dense_rounds=1)},
    ):
        with pytest.raises(ValueError, match="download density must stay the same"):
            Flasc(**{"method": "flasc-ef", **settings})
    Flasc(method="flasc-ef", decay=Decay(upload=0.9))


@pytest.mark.parametrize("error_feedback", ["up", "both"])
def test_differential_privacy_is_refused(error_feedback):
    privacy = Privacy(clip_norm=1.0, noise_multiplier=1.0, population=10)
    with pytest.raises(ValueError, match="error-feedback must be 'none', because"):
        Flasc(error_feedback=error_feedback, privacy=privacy)
    private = {"dp-clip-norm": 1.0, "dp-noise-multiplier": 1.0, "dp-population": 10}
    local = {"local-dp-epsilon": 0.5}
    for settings in (private, local):
        with pytest.raises(ConfigError, match="error-feedback must be 'none', because"):
            RunConfig.parse({"error-feedback": error_feedback, **settings})


@pytest.mark.parametrize(
    ("key", "value"), [("error-feedback", "down"), ("feedback-decay", 1.5)]
)
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        RunConfig.parse({key: value})
    with pytest.raises(ValueError, match=key):
        Flasc(**{key.replace("-", "_"): value})


def test_the_run_config_composes_it():
    config = RunConfig.parse({"method": "flasc-ef"})
    assert config.compose() == METHODS["flasc-ef"]
    assert config.make_server_optimizer() == FedAvgM()
    config = RunConfig.parse({"error-feedback": "up", "server-momentum": 0.5})
    assert config.compose() == compose("flasc", error_feedback="up")
    config = RunConfig.parse({"server-optimizer": "fedavgm", "server-momentum": 0.5})
    assert config.make_server_optimizer() == FedAvgM(momentum=0.5)


@pytest.mark.parametrize(
    ("fraction", "error_feedback", "warned"),
    [
        (0.5, "both", False),
        (0.2, "both", True),
        (0.2, "up", True),
        (0.2, "none", False),
    ],
)
def test_a_run_whose_devices_seldom_take_part_is_warned(
    caplog, fraction, error_feedback, warned
):
    strategy = Flasc(error_feedback=error_feedback, fraction_train=fraction)
    strategy.start(LocalGrid(client_app(), 4), array_record(adapter()), 1)
    said = "Error feedback pays where devices take part often" in caplog.text
    assert said == warned


def test_without_it_nothing_is_remembered():
    strategy = Flasc()
    assert not strategy.server.remembers
    assert strategy.settings == Flasc(feedback_decay=0.5).settings

"""flasc_mod beside Flower's own mods: first, such that they see plain arrays."""

import numpy as np
import pytest
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
)

from flasc_flwr import flasc_mod
from flasc_flwr.flower.wire import array_record
from tests.plug_in.plain import client_app, floats, mixed, start

NORM = 0.5
SETTINGS = {"download_density": 1 / 2, "upload_density": 1 / 2}
TRAIN_ONLY = {"fraction_evaluate": 0.0}


class Updates(FedAvg):
    """Measures the replies' distance from the current arrays."""

    def configure_train(self, server_round, arrays, config, grid):
        self.current = arrays.to_numpy_ndarrays()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        self.norms = [
            np.sqrt(
                sum(
                    np.square(np.subtract(new, old, dtype=np.float64)).sum()
                    for new, old in zip(
                        reply.content["arrays"].to_numpy_ndarrays(),
                        self.current,
                        strict=True,
                    )
                )
            )
            for reply in replies
            if not reply.has_error()
        ]
        return super().aggregate_train(server_round, replies)


def leap(arrays, client, current):
    """Go a long way."""
    return {name: array + array.dtype.type(1) for name, array in arrays.items()}


def fixed(inner):
    return DifferentialPrivacyClientSideFixedClipping(inner, 0.0, NORM, 4)


def adaptive(inner):
    return DifferentialPrivacyClientSideAdaptiveClipping(
        inner, 0.0, 4, initial_clipping_norm=NORM
    )


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(fixed, fixedclipping_mod), (adaptive, adaptiveclipping_mod)],
)
def test_clipping_behind_flasc_mod_bounds_what_is_sent(wrapper, mod):
    inner = Updates(**TRAIN_ONLY)
    app = client_app(leap, mods=[flasc_mod, mod])
    _, _, result = start(app, wrapper(inner), arrays=array_record(floats()), **SETTINGS)
    assert result.train_metrics_clientapp
    assert len(inner.norms) == 4
    # Rounding to bfloat16 may add one part in 256 to a value.
    assert 0.1 * NORM < max(inner.norms) <= NORM * (1 + 2**-8)


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(fixed, fixedclipping_mod), (adaptive, adaptiveclipping_mod)],
)
def test_clipping_before_flasc_mod_is_told_what_to_change(wrapper, mod, logged):
    app = client_app(mods=[mod, flasc_mod])
    _, _, result = start(app, wrapper(FedAvg(**TRAIN_ONLY)), **SETTINGS)
    assert not result.arrays
    assert logged().count("flasc_mod has to come first of its mods") == 4


def local_dp():
    return LocalDpMod(clipping_norm=NORM, sensitivity=1e-6, epsilon=10, delta=1e-5)


def test_local_privacy_behind_flasc_mod_clips_and_adds_noise(logged):
    inner = Updates(**TRAIN_ONLY)
    app = client_app(leap, mods=[flasc_mod, local_dp()])
    start(app, inner, arrays=array_record(floats()), **SETTINGS)
    assert len(inner.norms) == 4
    assert max(inner.norms) <= NORM * (1 + 2**-8)
    assert "local DP noise" in logged()


def test_local_privacy_before_flasc_mod_is_told_what_to_change(logged):
    app = client_app(mods=[local_dp(), flasc_mod])
    _, _, result = start(app, FedAvg(**TRAIN_ONLY), **SETTINGS)
    assert not result.arrays
    assert "add flasc_mod to the ClientApp, before its other mods" in logged()


@pytest.mark.parametrize("mod", [arrays_size_mod, message_size_mod])
@pytest.mark.parametrize("first", [True, False])
def test_mods_that_measure_work_on_both_sides(mod, first, logged):
    mods = [mod, flasc_mod] if first else [flasc_mod, mod]
    arrays = {"weight": mixed()["weight"]}

    def of_one(received, client, current):
        return {"weight": received["weight"] + 1}

    _, _, result = start(
        client_app(of_one, mods=mods), arrays=array_record(arrays), **SETTINGS
    )
    assert result.arrays
    if mod is arrays_size_mod:
        # Outside it sees the payload, inside the arrays.
        assert ("'elements': 240" in logged()) == (not first)

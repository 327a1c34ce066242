"""Flower's differential-privacy wrappers and mods together with sparse messages."""

import random

import numpy as np
import pytest
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import SPARSE, client_app, floats, run_wrapped

NORM = 0.5
SETTINGS = {"download_density": 1 / 2, "upload_density": 1 / 2, "sparse": SPARSE}
TRAIN_ONLY = {"fraction_evaluate": 0.0}


def client_fixed(inner, norm=5.0):
    return DifferentialPrivacyClientSideFixedClipping(inner, 0.0, norm, 4)


def client_adaptive(inner, norm=0.1):
    return DifferentialPrivacyClientSideAdaptiveClipping(
        inner, 0.0, 4, initial_clipping_norm=norm
    )


def server_fixed(inner):
    return DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 5.0, 4)


def server_adaptive(inner):
    return DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, 4)


class Updates(FedAvg):
    """Measures the norm of each reply minus the current arrays."""

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
    """Stand in for training with a large step."""
    return {name: array + array.dtype.type(1) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(client_fixed, fixedclipping_mod), (client_adaptive, adaptiveclipping_mod)],
)
def test_clipping_after_flasc_mod_bounds_what_is_sent(wrapper, mod):
    inner = Updates(**TRAIN_ONLY)
    app = client_app(leap, mods=[flasc_mod, mod])
    arrays = array_record(floats())
    _, _, result = run_wrapped(app, wrapper(inner, NORM), arrays=arrays, **SETTINGS)
    assert result.train_metrics_clientapp
    assert len(inner.norms) == 4
    # The norms are those of float32 arrays that the updates were added to.
    assert 0.1 * NORM < max(inner.norms) <= NORM * (1 + 1e-5)


def leap_that_rounds_up(arrays, client, current):
    """Stand in for training: most values are a bit more than half a step of int4."""

    def steps(array):
        moved = np.full(array.shape, 0.52 / 7, array.dtype)
        moved.flat[0] = 1
        return moved

    return {name: array + steps(array) for name, array in arrays.items()}


@pytest.mark.parametrize("values", VALUE_FORMATS)
def test_rounding_does_not_raise_a_clipped_update_above_its_norm(values):
    """With int4 its norm was 1.5 times what the noise is calibrated to."""
    inner = Updates(**TRAIN_ONLY)
    app = client_app(leap_that_rounds_up, mods=[flasc_mod, fixedclipping_mod])
    run_wrapped(
        app,
        client_fixed(inner, NORM),
        arrays=array_record(floats()),
        **SETTINGS | {"upload_density": 1, "download_density": 1, "values": values},
    )
    assert len(inner.norms) == 4
    # One array is float16, and so is the sum of what it was and its update.
    assert 0.5 * NORM < max(inner.norms) <= NORM * (1 + 2**-12)


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(client_fixed, fixedclipping_mod), (client_adaptive, adaptiveclipping_mod)],
)
def test_clipping_before_flasc_mod_is_rejected_with_a_hint(wrapper, mod, logged):
    app = client_app(mods=[mod, flasc_mod])
    _, _, result = run_wrapped(app, wrapper(FedAvg(**TRAIN_ONLY)), **SETTINGS)
    assert not result.arrays
    assert logged().count("flasc_mod must be the first of its mods") == 4


def local_dp():
    return LocalDpMod(clipping_norm=NORM, sensitivity=1e-6, epsilon=10, delta=1e-5)


def test_local_privacy_after_flasc_mod_clips_and_adds_noise(logged):
    inner = Updates(**TRAIN_ONLY)
    app = client_app(leap, mods=[flasc_mod, local_dp()])
    run_wrapped(app, inner, arrays=array_record(floats()), **SETTINGS)
    assert len(inner.norms) == 4
    assert max(inner.norms) <= NORM * (1 + 2**-8)
    assert "local DP noise" in logged()


def test_local_privacy_before_flasc_mod_is_rejected_with_a_hint(logged):
    app = client_app(mods=[local_dp(), flasc_mod])
    _, _, result = run_wrapped(app, FedAvg(**TRAIN_ONLY), **SETTINGS)
    assert not result.arrays
    assert "add flasc_mod to the ClientApp, before its other mods" in logged()


@pytest.mark.parametrize(
    ("wrapper", "mod"),
    [(client_fixed, fixedclipping_mod), (client_adaptive, adaptiveclipping_mod)],
)
def test_client_side_clipping_may_be_inside_or_outside(wrapper, mod):
    results = []
    for strategy in (
        SparseTransport(wrapper(FedAvg()), **SETTINGS),
        wrapper(SparseTransport(FedAvg(), **SETTINGS, error_feedback="none")),
    ):
        random.seed(0)
        grid = LocalGrid(client_app(mods=[flasc_mod, mod]), 4)
        results.append(strategy.start(grid, array_record(floats()), 2))
    inside, outside = results
    assert len(inside.train_metrics_clientapp) == 2
    assert inside.train_metrics_clientapp == outside.train_metrics_clientapp
    for name, array in inside.arrays.items():
        np.testing.assert_allclose(
            array.numpy(), outside.arrays[name].numpy(), rtol=2e-3, atol=1e-3
        )


@pytest.mark.parametrize("wrapper", [server_fixed, server_adaptive])
def test_server_side_clipping_must_be_inside(wrapper):
    """It reads the replies' arrays, which are payloads outside of the transport."""
    arrays = array_record(floats())
    _, _, result = run_wrapped(inner=wrapper(FedAvg()), arrays=arrays, **SETTINGS)
    assert result.arrays
    strategy = wrapper(SparseTransport(FedAvg(), **SETTINGS))
    with pytest.raises(TypeError, match="SparseTransport, which must be the outermost"):
        strategy.start(LocalGrid(client_app(), 4), arrays, 1)

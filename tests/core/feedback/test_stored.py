"""A device's memory in its node's state, which may hold anything."""

import numpy as np
import pytest

from flasc_flwr.core.feedback.memory import DeviceMemory, Fading
from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.stored import (
    restore_memory,
    restore_stream,
    store_memory,
    store_stream,
)
from flasc_flwr.core.feedback.stream import Stream

from .fleet import LAYOUT, adapter, compressor


def memory():
    result = DeviceMemory.empty(LAYOUT)
    draw = np.random.default_rng(1)
    owed = draw.standard_normal(LAYOUT.size).astype(np.float32)
    payload = compressor(LAYOUT, 1 / 4, "int8")(owed)
    result.hold(Reference.origin(LAYOUT).after([payload]))
    for _ in range(2):
        result.sent(5, compressor(LAYOUT, 1 / 4, "int8")(result.owed(owed, 5, FADING)))
    return result


FADING = Fading()


def test_a_memory_survives_a_restart():
    before = memory()
    after = restore_memory(store_memory(before))
    assert np.array_equal(after.residual, before.residual)
    assert after.reference.digest == before.reference.digest
    assert after.reference.version == before.reference.version
    assert after.unconfirmed == before.unconfirmed
    assert after.trained == before.trained == 5
    assert after.layout == before.layout
    after.residual += 1  # it may be changed


def test_a_new_memory_survives_a_restart():
    after = restore_memory(store_memory(DeviceMemory.empty(LAYOUT)))
    assert after.reference is None and after.trained is None
    assert after.unconfirmed == [] and not after.residual.any()


def test_a_residual_in_bfloat16_takes_half_and_is_rounded_to_8_bits():
    before = memory()
    stored = store_memory(before, half=True)
    assert stored["residual"].nbytes == 2 * LAYOUT.size
    residual = restore_memory(stored).residual
    assert residual.dtype == np.float32
    error = np.abs(residual - before.residual)
    assert np.all(error <= 2.0**-8 * np.abs(before.residual)) and error.any()


@pytest.mark.parametrize("name", list(store_memory(memory())))
@pytest.mark.parametrize(
    "instead",
    [
        None,
        np.zeros(3, np.float64),
        np.full(7, 1, np.uint8),
        np.full(7, -1, np.int64),
        np.full(7, np.nan, np.float32),
        np.full((7, 7), 1, np.uint16),
    ],
)
def test_a_damaged_memory_is_refused(name, instead):
    stored = store_memory(memory())
    if instead is None:
        del stored[name]
    else:
        stored[name] = instead
    if name == "reference" and instead is None:
        assert restore_memory(stored).reference is None
        return
    with pytest.raises(ValueError):
        restore_memory(stored)


def test_a_stream_of_another_history_is_refused():
    stream = Stream.begin(LAYOUT)
    for seed in range(2):
        target = np.random.default_rng(seed).standard_normal(LAYOUT.size)
        stream.advance(target.astype(np.float32), compressor(LAYOUT, 0.5, "int4"))
    stored = store_stream(stream)
    with pytest.raises(ValueError, match="the payloads do not lead to the reference"):
        restore_stream(stored | {"base": np.zeros(8, np.uint8)}, LAYOUT)
    with pytest.raises(ValueError, match="finite values"):
        restore_stream(stored, adapter(rank=2))

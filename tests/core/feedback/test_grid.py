"""References on the grid of bfloat16: whole in two bytes an entry, and exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.feedback.grid import halves, of_halves, on_grid
from flasc_flwr.core.feedback.memory import DeviceMemory
from flasc_flwr.core.feedback.reference import Reference
from flasc_flwr.core.feedback.stored import (
    restore_memory,
    restore_stream,
    store_memory,
    store_stream,
)
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from tests.peak import peak_of

LAYOUT = Layout.of({"a": np.zeros((30, 20), np.float32)})
GRID = "bfloat16"


def random(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return (scale * draw.standard_normal(LAYOUT.size)).astype(np.float32)


def compress(density, values="int8"):
    return lambda vector: encode(top_k(vector, density), values, layout=LAYOUT)


def moved(steps, density=0.25):
    stream = Stream.begin(LAYOUT, GRID)
    stream.advance(random(0), compress(1.0, GRID))
    for step in range(steps):
        stream.advance(random(0) + random(step + 1, 0.05), compress(density))
    return stream


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1))
def test_rounding_is_to_the_nearest_and_stays(values):
    vector = np.asarray(values, np.float32)
    rounded = on_grid(vector, GRID)
    assert np.all(np.abs(rounded - vector) <= np.abs(vector) * 2.0**-8 + 1e-40)
    assert not np.signbit(rounded[rounded == 0]).any()
    assert np.array_equal(on_grid(rounded, GRID), rounded)
    assert np.array_equal(of_halves(halves(rounded)), rounded)
    assert on_grid(vector, "float32") is vector


@settings(deadline=None)
@given(st.integers(0, 6), st.sampled_from([0.01, 0.25, 1.0]))
def test_a_device_without_state_gets_the_reference_exactly(steps, density):
    stream = moved(steps, density)
    way = stream.catch_up(None)
    arrived = way.applied(None)
    assert arrived.digest == stream.reference.digest
    assert arrived.version == stream.reference.version
    assert arrived.grid == GRID
    assert len(stream.whole) < 2 * LAYOUT.size + 200
    assert way.size <= max(len(stream.whole), len(stream.payloads[0]) + 200)


def test_a_device_that_follows_holds_the_same():
    stream = Stream.begin(LAYOUT, GRID)
    held = None
    for step in range(5):
        target = random(step)
        stream.advance(target, compress(1.0 if step == 0 else 0.1))
        version = held.version if held else None
        held = stream.catch_up(version).applied(held)
        assert held.digest == stream.reference.digest


def test_what_the_grid_cannot_hold_is_not_sent():
    stream = moved(0)
    near = random(0) * np.float32(1 + 1e-4)
    kept = []
    stream.advance(near, lambda v: kept.append(v) or compress(1.0, GRID)(v))
    (difference,) = kept
    assert 0 < np.count_nonzero(difference) < LAYOUT.size / 5
    assert np.array_equal(stream.reference.vector, on_grid(near, GRID))
    before = stream.reference.version
    stream.advance(near, compress(1.0))
    assert stream.reference.version == before


def test_references_of_other_grids_have_other_versions():
    assert Reference.origin(LAYOUT).version != Reference.origin(LAYOUT, GRID).version
    assert (
        Reference.origin(LAYOUT).version == Reference.origin(LAYOUT, "float32").version
    )


@pytest.mark.parametrize("grid", ["float32", GRID])
def test_a_reference_is_stored_in_the_bytes_that_its_grid_needs(grid):
    stream = Stream.begin(LAYOUT, grid)
    stream.advance(random(0), compress(0.5))
    stored = store_stream(stream)
    assert stored["reference"].nbytes == LAYOUT.size * (2 if grid == GRID else 4)
    again = restore_stream(stored, LAYOUT)
    assert again.reference.digest == stream.reference.digest
    assert again.reference.grid == grid
    memory = DeviceMemory.empty(LAYOUT, b"12345678")
    memory.hold(stream.reference)
    kept = restore_memory(store_memory(memory))
    assert kept.reference.digest == stream.reference.digest
    assert kept.reference.grid == grid
    assert kept.run == b"12345678"


def test_a_payload_with_every_entry_is_added_in_little_memory():
    target = np.random.default_rng(0).standard_normal(1 << 21, np.float32)
    layout = Layout.of({"w": target})
    origin = Reference.origin(layout, GRID)
    payload = encode(top_k(target, 1.0), GRID, layout=layout)

    assert peak_of(on_grid, target, GRID) < 2 * target.nbytes
    decoding = peak_of(decode, payload, layout.size)
    adding = peak_of(origin.after, [payload])

    # Beside what decoding takes: the new reference.
    assert adding < decoding + 1.25 * target.nbytes

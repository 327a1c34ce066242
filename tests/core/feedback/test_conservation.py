"""What was sent plus what is held equals what was trained, whatever gets lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.feedback.memory import DeviceMemory, Fading
from flasc_flwr.core.feedback.stored import restore_memory, store_memory

from .fleet import LAYOUT, Device, Server, compressor, deliver

EVENTS = (
    "taken", "absent", "message lost", "reply lost", "rejected",
    "repeated, first taken", "repeated, second taken", "repeated, none taken",
    "restarted", "late message",
)  # fmt: skip
ROUNDS = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(EVENTS)), max_size=14
)


def updates(seed, whole):
    rng = np.random.default_rng(seed)
    while True:
        if whole:
            yield rng.integers(-50, 50, LAYOUT.size).astype(np.float32)
        else:
            scale = 10.0 ** rng.integers(-6, 3, LAYOUT.size)
            yield (rng.standard_normal(LAYOUT.size) * scale).astype(np.float32)


def live(server, device, current, event, fresh):
    """Let one device live through one event of one round."""
    name = device.name
    if event == "absent":
        return
    message = server.message(current, name)
    if event == "message lost":
        return
    if event == "restarted" and device.memory:
        device.memory = restore_memory(store_memory(device.memory))
    payload = deliver(server, device, message, next(fresh))
    if payload is None or event == "reply lost":
        return
    if event.startswith("repeated"):
        again = deliver(server, device, message, next(fresh))
        assert again is not None  # the device holds what it was just sent
        if "first" in event:
            server.take(current, name, payload)
        elif "second" in event:
            server.take(current, name, again)
    elif event != "rejected":
        server.take(current, name, payload)
    server.arrived(name)
    if event == "late message":
        # Changed places with the next one: it settles nothing.
        before = device.memory.residual.copy()
        device.memory.open_round(current - 1, None)
        assert np.array_equal(device.memory.residual, before)


@given(
    ROUNDS,
    st.integers(0, 2**32),
    st.sampled_from(VALUE_FORMATS),
    st.sampled_from([1 / 16, 1 / 4, 1.0]),
)
def test_sent_plus_held_is_trained_up_to_rounding(rounds, seed, values, density):
    server = Server(values, density)
    devices = [Device(name, values, density) for name in ("a", "b")]
    fresh = updates(seed, whole=False)
    for current, events in enumerate(rounds, 1):
        server.advance()
        for device, event in zip(devices, events, strict=True):
            live(server, device, current, event, fresh)
    for device in devices:
        held = device.held(server.receipts.last.get(device.name))
        missing = device.trained - server.taken.get(device.name, 0.0) - held
        # The last term is for what `held` itself puts back.
        bound = device.rounding + 2.0**-24 * np.abs(held)
        assert np.all(np.abs(missing) <= bound)


@given(ROUNDS, st.integers(0, 2**32))
def test_sent_plus_held_is_trained_exactly_where_nothing_is_rounded(rounds, seed):
    """Whole numbers below 2**24 in float32: every sum is exact."""
    server, device = Server("float32", 1 / 8), Device("a", "float32", 1 / 8)
    fresh = updates(seed, whole=True)
    for current, (event, _) in enumerate(rounds, 1):
        server.advance()
        live(server, device, current, event, fresh)
    held = device.held(server.receipts.last.get("a"))
    assert np.array_equal(server.taken.get("a", 0.0) + held, device.trained)


@given(st.integers(0, 2**32), st.sampled_from(VALUE_FORMATS))
def test_what_one_reply_leaves_out_is_exact(seed, values):
    """Sterbenz: the rounded value is within a factor of two of the value."""
    owed = next(updates(seed, whole=False))
    memory = DeviceMemory.empty(LAYOUT)
    memory.owed(owed, 1, Fading(decay=1.0))
    memory.sent(1, compressor(LAYOUT, 1 / 2, values)(owed))
    exact = owed.astype(np.float64)
    sent = exact - memory.residual.astype(np.float64)
    memory.open_round(2, None)  # not taken in
    assert np.array_equal(memory.residual, owed)
    assert np.array_equal(sent, sent.astype(np.float32))


def test_a_reply_that_was_not_taken_in_goes_back_whole():
    server, device = Server("int4", 1 / 16), Device("a", "int4", 1 / 16)
    fresh = updates(0, whole=False)
    server.advance()
    first = next(fresh)
    device.answer(server.message(1, "a"), first)
    device.answer(server.message(2, "a"), np.zeros_like(first))
    device.memory.open_round(3, None)
    assert np.array_equal(device.memory.residual, first)


def test_a_residual_fades_by_the_rounds_that_passed():
    memory = DeviceMemory.empty(LAYOUT)
    update = np.ones(LAYOUT.size, np.float32)
    nothing = np.zeros_like(update)
    fading = Fading(decay=0.5)
    memory.owed(update, 3, fading)
    assert np.all(memory.owed(nothing, 3, fading) == 1)  # delivered twice
    assert np.all(memory.owed(nothing, 4, fading) == 0.5)
    assert np.all(memory.owed(nothing, 7, fading) == 0.0625)
    forgets_nothing = Fading(decay=1.0)
    assert np.all(memory.owed(nothing, 9, forgets_nothing) == 0.0625)


def test_a_resumed_server_does_not_make_a_residual_grow():
    """Rounds run backwards after a resume: none has passed."""
    memory, fading = DeviceMemory.empty(LAYOUT), Fading(decay=0.5)
    update = np.ones(LAYOUT.size, np.float32)
    memory.owed(update, 9, fading)
    assert np.all(memory.owed(update, 4, fading) == 2)


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan"), "1"])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="feedback-decay must be a number in"):
        Fading(decay=decay)

"""Whatever happens to server and devices, their references are equal by digest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec import VALUE_FORMATS, PayloadError, encode
from flasc_flwr.core.feedback.catching_up import CatchUp, UnknownVersionError
from flasc_flwr.core.feedback.memory import DeviceMemory
from flasc_flwr.core.feedback.reference import VERSION_BYTES, Reference
from flasc_flwr.core.feedback.stored import restore_stream, store_stream
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.sparsity import SparseVector, top_k

from .fleet import LAYOUT, Device, Server, adapter, compressor, deliver

EVENTS = (
    "taken", "absent", "message lost", "reply lost", "lost its state",
    "server saves", "server resumes",
)  # fmt: skip


WIDE = adapter(rank=64)


def normal(seed, size=LAYOUT.size):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def advanced(layout=LAYOUT, steps=6, density=1 / 8, values="int8"):
    """Return a stream after some steps, and the versions on the way."""
    stream = Stream.begin(layout)
    versions = [stream.reference.version]
    for seed in range(steps):
        target = normal(seed, layout.size)
        stream.advance(target, compressor(layout, density, values))
        versions.append(stream.reference.version)
    return stream, versions


@given(
    st.lists(st.tuples(*[st.sampled_from(EVENTS)] * 2), max_size=14),
    st.sampled_from(VALUE_FORMATS),
    st.sampled_from([1 / 16, 1.0]),
)
def test_references_are_equal_after_any_sequence(rounds, values, density):
    server = Server(values, density)
    devices = [Device(name, values, density) for name in ("a", "b")]
    saved, current = server.saved(), 0
    for events in rounds:
        current += 1
        server.advance()
        for device, event in zip(devices, events, strict=True):
            if event == "server saves":
                saved = server.saved()
            if event == "server resumes":
                server.resume(saved)
                server.advance()
            if event == "lost its state":
                device.memory = None
            if event in ("absent", "message lost"):
                continue
            message = server.message(current, device.name)
            payload = deliver(server, device, message, normal(current))
            if payload is not None and event != "reply lost":
                server.take(current, device.name, payload)
                server.arrived(device.name)
    # Two messages reach every device: the first may find it without its state.
    for device in devices:
        for _ in range(2):
            current += 1
            message = server.message(current, device.name)
            payload = deliver(server, device, message, normal(current))
        assert payload is not None
        assert device.memory.reference.digest == server.stream.reference.digest


def test_a_device_that_missed_rounds_gets_what_it_lacks():
    stream, versions = advanced(WIDE, density=1 / 16)
    for missed, version in enumerate(reversed(versions[2:])):
        assert len(stream.catch_up(version).payloads) == missed


def test_the_break_even_is_exact_in_bytes():
    """Payloads while they are shorter than the whole reference, else that."""
    chosen = set()
    for density in (1 / 16, 1 / 4, 1.0):
        stream, versions = advanced(WIDE, density=density, values="bfloat16", steps=8)
        for place, version in zip(range(7), versions[-9:], strict=False):
            by_payloads = sum(map(len, stream.payloads[place - 8 :]))
            way = stream.catch_up(version)
            assert way.size == min(by_payloads, len(stream.whole))
            assert (way.start is None) == (by_payloads < len(stream.whole))
            chosen.add(way.start is None)
    assert chosen == {True, False}


def test_a_device_without_state_gets_the_shorter_of_both_ways():
    stream, _ = advanced(steps=1, values="int4", density=1.0)
    way = stream.catch_up(None)
    assert way.size < len(stream.whole) and len(way.payloads) == 1
    assert way.applied(None).digest == stream.reference.digest
    long, _ = advanced(steps=8, density=1.0)
    assert long.catch_up(None).payloads == ()
    assert long.catch_up(None).applied(None).digest == long.reference.digest


def test_payloads_that_cannot_pay_are_forgotten():
    stream, versions = advanced(WIDE, steps=40, density=1.0)
    assert sum(map(len, stream.payloads)) < 4 * WIDE.size + 4096 + 900
    assert stream.catch_up(versions[0]).start == stream.whole
    assert stream.catch_up(None).start == stream.whole


def test_short_payloads_after_a_long_one_do_not_lead_there_from_zero():
    layout = adapter(rank=2048)
    stream = Stream.begin(layout)
    stream.advance(normal(0, layout.size), compressor(layout, 1.0, "float32"))
    first = stream.base
    while stream.base == first:
        target = normal(len(stream.payloads), layout.size)
        stream.advance(target, compressor(layout, 1 / 16, "int8"))
    assert sum(map(len, stream.payloads)) < len(stream.whole)
    assert stream.catch_up(None).applied(None).digest == stream.reference.digest


def test_a_device_skips_the_payloads_that_it_has_added():
    """Its reply was lost: it is further than the server knows."""
    stream, versions = advanced(WIDE, density=1 / 16)
    held = advanced(WIDE, density=1 / 16, steps=3)[0].reference
    way = stream.catch_up(versions[3])
    assert len(way.payloads) == 3
    further = CatchUp(way.base, None, way.payloads[:2]).applied(held)
    assert further.version == versions[5]
    assert way.applied(further).digest == stream.reference.digest
    assert way.applied(stream.reference).digest == stream.reference.digest


def test_an_unknown_version_is_noticed_by_both_sides():
    stream, versions = advanced(density=1 / 16)
    other, _ = advanced(density=1 / 4)
    way = stream.catch_up(versions[4])
    with pytest.raises(UnknownVersionError, match="this device has none"):
        way.applied(None)
    with pytest.raises(UnknownVersionError, match=other.reference.version.hex()):
        way.applied(other.reference)
    again = stream.catch_up(other.reference.version)
    assert again.start is not None
    assert again.applied(other.reference).digest == stream.reference.digest


def test_histories_that_differ_have_different_versions():
    one, versions = advanced(steps=3)
    assert len({*versions}) == 4
    assert {len(version) for version in versions} == {VERSION_BYTES}
    assert Reference.origin(adapter(rank=2)).version != versions[0]
    other, others = advanced(steps=3, values="int4")
    assert not {*versions[1:]} & {*others[1:]}


def test_what_a_payload_leaves_out_is_sent_later():
    stream, target = Stream.begin(LAYOUT), normal(0)
    for _ in range(200):
        stream.advance(target, compressor(LAYOUT, 1 / 16, "float32"))
    assert np.array_equal(stream.reference.vector, target)
    before = stream.reference.version
    stream.advance(target, compressor(LAYOUT, 1 / 16, "float32"))
    assert stream.reference.version == before  # nothing is left to send


def test_a_stored_stream_goes_on_alike():
    stream, versions = advanced()
    stored = store_stream(stream)
    assert {array.dtype.name for array in stored.values()} <= {
        "float32", "uint8", "int64",
    }  # fmt: skip
    again = restore_stream(stored, LAYOUT)
    for each in (stream, again):
        each.advance(normal(99), compressor(LAYOUT, 1 / 8, "int8"))
    assert again.reference.version == stream.reference.version
    assert again.reference.digest == stream.reference.digest
    assert again.catch_up(versions[5]).payloads == stream.catch_up(versions[5]).payloads


def test_a_reference_beyond_float32_stays_as_it_was():
    stream = Stream.begin(LAYOUT)
    huge = np.full(LAYOUT.size, 3e38, np.float32)
    stream.advance(huge, compressor(LAYOUT, 1.0, "float32"))
    before = stream.reference.version
    with pytest.raises(PayloadError, match="the reference is not finite"):
        stream.advance(
            huge / 2, lambda _: encode(top_k(huge, 1.0), "float32", layout=LAYOUT)
        )
    assert stream.reference.version == before and len(stream.payloads) == 1


def test_a_payload_of_another_layout_is_refused():
    other = adapter(rank=2)
    payload = encode(top_k(normal(0, other.size), 1.0), "int8", layout=other)
    with pytest.raises(PayloadError):
        Reference.origin(LAYOUT).after([payload])


def test_a_whole_reference_without_a_layout_is_refused():
    bare = encode(SparseVector.of_dense(normal(0)), "float32", layout=LAYOUT)
    way = CatchUp(b"12345678", bare, ())
    with pytest.raises(PayloadError, match="carries no layout"):
        way.applied(None)


def test_a_device_whose_rank_changes_holds_the_first_components():
    """One stream per rank; the residual of common components is kept."""
    streams = {rank: advanced(adapter(rank))[0] for rank in (2, 4)}
    memory = DeviceMemory.empty(adapter(4))
    memory.residual[:] = np.arange(1, LAYOUT.size + 1)
    before = LAYOUT.unflatten(memory.residual)
    for rank in (4, 2, 4):
        held = None if memory.reference is None else memory.reference.version
        way = streams[rank].catch_up(held)
        memory.hold(way.applied(memory.reference))
        assert memory.reference.digest == streams[rank].reference.digest
        assert len(memory.residual) == adapter(rank).size
        parts = memory.layout.unflatten(memory.residual)
        common = slice(min(rank, 2))
        np.testing.assert_array_equal(parts["head"], before["head"])
        for name, at in (
            ("m.lora_A.weight", (common,)),
            ("m.lora_B.weight", (slice(None), common)),
        ):
            np.testing.assert_array_equal(parts[name][at], before[name][at])
    # Components 2 and 3 were dropped on the way.
    assert not parts["m.lora_A.weight"][2:].any()
    assert not parts["m.lora_B.weight"][:, 2:].any()

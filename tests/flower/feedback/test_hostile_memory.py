"""What a message or a reply says about memories may be anything."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec import PayloadError, encode
from flasc_flwr.core.feedback.stream import Stream
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector, top_k
from flasc_flwr.flower.feedback.device_session import DeviceSession
from flasc_flwr.flower.feedback.reminder import HELD, Reminder
from flasc_flwr.flower.wire import CONTROL, payload_record
from tests.flower.apps import adapter, client_app
from tests.flower.device import ask, content, order
from tests.flower.feedback.patchy import PatchyGrid
from tests.flower.feedback.test_protocol import NODES, references, run, strategy_of

LAYOUT = Layout.of(adapter())
VALUES = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.booleans(),
    st.binary(max_size=20),
    st.text(max_size=100),
    st.lists(st.integers(-5, 2**40), max_size=5),
    st.lists(st.binary(max_size=3), max_size=3),
)
KEYS = ("round", "taken", "decay", "base", "whole", "lengths")


def whole(**instead):
    """Return a download that leads a device to its first reference."""
    stream = Stream.begin(LAYOUT)
    target = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    stream.advance(target, lambda v: encode(top_k(v, 0.5), "int8", layout=LAYOUT))
    reminder, data = Reminder(round=1).with_way(stream.catch_up(None))
    control = dict(order())
    reminder.add_to(control)
    return content(payload_record(data), ConfigRecord({**control, **instead}))


def test_a_good_message_is_trained_on():
    reply = ask(whole(), client_app())
    assert list(reply.content.array_records) == ["arrays"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1))
def test_a_device_refuses_what_it_cannot_use(entries):
    message = whole(**{f"memory-{key}": value for key, value in entries.items()})
    try:
        reply = ask(message, client_app())
    except (PayloadError, ValueError) as error:
        assert len(str(error)) < 400 and str(error).isprintable()
    else:
        assert list(reply.content.array_records) in (["arrays"], [])


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_device_refuses_payloads_of_any_bytes(data, first):
    stream = Stream.begin(LAYOUT)
    control = dict(order())
    Reminder(
        round=1, base=stream.base, whole=True, lengths=(first,) if first else ()
    ).add_to(control)
    message = content(payload_record(data), ConfigRecord(control))
    with pytest.raises(PayloadError):
        ask(message, client_app())


def test_a_whole_reference_beyond_the_devices_limits_is_refused():
    message = whole()
    with pytest.raises(ValueError, match="max-entries"):
        ask(message, client_app(), **{"max-entries": 10})
    with pytest.raises(ValueError, match="lora-rank"):
        ask(whole(), client_app(), **{"lora-rank": 2})
    with pytest.raises(ValueError, match="max-download-bytes"):
        ask(whole(), client_app(), **{"max-download-bytes": 100})


@pytest.mark.parametrize(
    ("limit", "match"),
    [
        ({"download-density": 1 / 16}, "download-density"),
        ({"download-bytes": 70}, "70"),
    ],
)
def test_a_payload_beyond_the_devices_budget_is_refused(limit, match):
    """Only the first reference may be longer."""
    PatchyGrid(1)  # gives messages their process's identity
    node = Context(0, 1, {"partition-id": 0}, state=RecordDict(), run_config={})
    node.node_config.update(limit)
    stream, app = Stream.begin(LAYOUT), client_app()
    draw = np.random.default_rng(0)
    held = None
    for current in (1, 2):
        target = draw.standard_normal(LAYOUT.size).astype(np.float32)
        stream.advance(target, lambda v: encode(top_k(v, 0.5), "int8", layout=LAYOUT))
        reminder, data = Reminder(round=current).with_way(stream.catch_up(held))
        control = dict(order())
        reminder.add_to(control)
        given = content(payload_record(data), ConfigRecord(control))
        message = Message(RecordDict(given), 1, "train")
        if current == 1:
            app(message, node)
            held = stream.reference.version
        else:
            with pytest.raises(ValueError, match=match):
                app(message, node)


@pytest.mark.parametrize("value", ["float16", 3])
def test_an_unknown_format_of_the_residual_is_refused(value):
    with pytest.raises(ValueError, match="residual-values must be one of"):
        ask(whole(), client_app(), **{"residual-values": value})


def test_an_update_that_is_not_finite_leaves_the_memory_as_it_was():
    node = Context(0, 1, {"partition-id": 0}, state=RecordDict(), run_config={})
    PatchyGrid(1)  # gives messages their process's identity

    def explodes(arrays, client, current):
        return {name: np.full_like(a, np.inf) for name, a in arrays.items()}

    for trainer, fails in ((None, False), (explodes, True)):
        before = dict(node.state.array_records)
        app = client_app(trainer) if trainer else client_app()
        message = Message(RecordDict(whole()), 1, "train")
        if fails:
            with pytest.raises(ValueError, match="finite"):
                app(message, node)
            assert dict(node.state.array_records) == before
        else:
            app(message, node)


@pytest.mark.parametrize(
    "held", [b"", b"12345678", b"1", "text", 7, [b"12345678"], b"x" * 1000]
)
def test_a_reply_may_claim_any_reference(held):
    """The device is sent everything in the next round, and nobody else notices."""

    class Lying(PatchyGrid):
        def _run_app(self, message):
            reply = super()._run_app(message)
            if self.seen[1] == 2 and message.metadata.dst_node_id == 1:
                reply.content[CONTROL] = ConfigRecord({HELD: held})
            return reply

    grid = Lying(NODES)
    strategy = run(strategy_of(), grid, 4)
    assert [row["replies"] for row in strategy.state.history[1:]] == [4, 3, 4, 4]
    assert set(grid.digests().values()) == references(strategy)


@pytest.mark.parametrize("held", [b"12345678", "text", b""])
def test_an_introduction_may_claim_any_reference(held):
    class Lying(PatchyGrid):
        def _run_app(self, message):
            reply = super()._run_app(message)
            control = reply.content.config_records.get(CONTROL)
            if control is not None and "name" in control:
                control[HELD] = held
            return reply

    grid = Lying(NODES)
    strategy = run(strategy_of(), grid, 3)
    assert all(row["replies"] == NODES for row in strategy.state.history[1:])
    assert set(grid.digests().values()) == references(strategy)


def test_a_message_from_another_history_is_answered_with_what_is_held():
    """A payload for a reference that the device does not hold changes nothing."""
    payload = encode(SparseVector.of_dense(np.ones(LAYOUT.size, np.float32)))
    control = dict(order())
    Reminder(round=1, base=b"12345678").add_to(control)
    reply = ask(content(payload_record(payload), ConfigRecord(control)), client_app())
    assert reply.content.config_records[CONTROL][HELD] == b""
    assert not reply.content.array_records


def test_messages_that_say_nothing_of_a_memory_have_no_session():
    context = Context(0, 1, {}, state=RecordDict(), run_config={})
    assert DeviceSession.of(context, None) is None
    assert DeviceSession.of(context, order()) is None

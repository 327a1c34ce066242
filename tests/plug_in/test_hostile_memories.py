"""What messages and replies say about memories may be anything, under SparseTransport.

60 generated replies, and as many messages.
"""

import random

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.feedback.kept_memory import MOST_MEMORIES, STATE
from flasc_flwr.flower.feedback.reminder import HELD, SUM, Reminder
from flasc_flwr.flower.wire import CONTROL, PART, UNCHANGED, array_record
from tests.plug_in.numpy_app import client_app, snapshot
from tests.plug_in.patchy import SPARSE, Noting, PatchyGrid, drift, start_arrays

QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
VALUES = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.booleans(),
    st.binary(max_size=20),
    st.text(max_size=100),
    st.lists(st.integers(-5, 2**40), max_size=5),
    st.lists(st.text(max_size=9), max_size=3),
)
SAID = st.sampled_from(
    [
        f"{entry}/arrays"
        for entry in (SUM, HELD, PART.rstrip("/"), "memory-round", "memory-base")
    ]
    + [UNCHANGED, SUM, HELD, f"{HELD}/other"]
)
ENTRIES = [
    f"memory-{name}/arrays"
    for name in (
        "round",
        "taken",
        "decay",
        "base",
        "whole",
        "lengths",
        "grid",
        "run",
    )  # fmt: skip
]


def run_with(change, node=2):
    """Run two rounds in which one node says something else of its memory."""

    def tampered(message, context, call_next):
        reply = call_next(message, context)
        if context.node_id == node:
            control = dict(reply.content.config_records.get(CONTROL, {}))
            control.update(change)
            reply.content[CONTROL] = ConfigRecord(control)
        return reply

    random.seed(0)
    inner = Noting(fraction_evaluate=1.0)
    grid = PatchyGrid(client_app(drift, mods=[tampered, flasc_mod]), 3)
    transport = SparseTransport(inner, **SPARSE)
    transport.start(grid, array_record(start_arrays()), 2)
    return inner, grid


@QUICK
@given(st.dictionaries(SAID, VALUES, min_size=1, max_size=3))
def test_what_one_reply_says_fails_at_most_its_client(change):
    inner, grid = run_with(change)
    for given_, failed in zip(inner.given, inner.failed, strict=True):
        assert {1, 3} <= set(given_)
        assert set(failed) <= {2}
        for reason in failed.values():
            assert reason.isprintable() and len(reason) < 500
    assert grid.memory(1).reference.digest == grid.memory(3).reference.digest


def test_a_wrong_checksum_is_rejected_and_the_next_message_has_the_whole():
    inner, grid = run_with({f"{SUM}/arrays": 7})
    assert "the values of the device's reference differ" in inner.failed[0][2]
    sizes = [
        len(m.content["arrays"]["payload"].data)
        for m in grid.down
        if m.metadata.dst_node_id == 2
    ]
    assert min(sizes) > 1000


def recorded():
    """Return a node's third message, and its state before it."""
    grid = PatchyGrid(client_app(drift), 2)
    transport = SparseTransport(Noting(), **SPARSE)
    transport.start(grid, array_record(start_arrays()), 2)
    state = {k: v for k, v in grid._contexts[1].state.items()}
    seen = len(grid.down)
    messages = transport.configure_train(
        3,
        array_record({n: a * np.float32(1.1) for n, a in start_arrays().items()}),
        ConfigRecord({"server-round": 3}),
        grid,
    )
    grid.push_messages(messages)
    (message,) = [m for m in grid.down[seen:] if m.metadata.dst_node_id == 1]
    return message, state


MESSAGE, BEFORE = recorded()


def ask(change, **node_config):
    message = snapshot(MESSAGE)
    message.content["arrays"] = MESSAGE.content["arrays"]
    control = dict(MESSAGE.content[CONTROL])
    control.update(change)
    message.content[CONTROL] = ConfigRecord(control)
    config = {"partition-id": 0, **node_config}
    node = Context(0, 1, config, state=RecordDict(dict(BEFORE)), run_config={})
    PatchyGrid(client_app(drift), 1)  # gives messages their process's identity
    copied = Message(message.content, 1, "train")
    return client_app(drift)(copied, node), node


def test_the_message_is_good_as_it_is():
    reply, _ = ask({})
    assert list(reply.content.array_records) == ["arrays"]


@QUICK
@given(st.dictionaries(st.sampled_from(ENTRIES), VALUES, min_size=1, max_size=3))
def test_a_device_refuses_what_it_cannot_use(change):
    try:
        reply, _ = ask(change)
    except (PayloadError, ValueError) as error:
        assert len(str(error)) < 500 and str(error).isprintable()
    else:
        assert list(reply.content.array_records) in (["arrays"], [])


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"download-bytes": 70}, "this device's download-bytes"),
        ({"download-density": 1 / 100}, "this device's download-density"),
        ({"max-entries": 1000}, "this device's max-entries"),
        ({"upload-density": 1 / 100}, "this device's upload-density"),
    ],
)
def test_a_devices_own_limits_hold_for_differences(limit, reason):
    with pytest.raises(ValueError, match=reason):
        ask({}, **limit)


def test_a_device_keeps_a_bounded_number_of_memories():
    config = {"partition-id": 0}
    context = Context(0, 1, config, state=RecordDict(), run_config={})
    app = client_app(lambda arrays, *_: arrays)
    PatchyGrid(app, 1)
    for number in range(MOST_MEMORIES + 5):
        key = f"arrays{number}"
        control = dict(MESSAGE.content[CONTROL])
        own = {k: v for k, v in control.items() if not k.endswith("/arrays")}
        own["sparse/arrays"] = [0]
        Reminder(round=1, run=b"12345678").add_to(own, key)
        Reminder(round=1, run=b"12345678").add_to(own, "arrays")
        own[f"sparse/{key}"] = [0]
        content = RecordDict(
            {
                "arrays": array_record({"a": start_arrays()["weight"]}),
                key: array_record({"a": start_arrays()["weight"]}),
                "config": ConfigRecord({"server-round": 1}),
                CONTROL: ConfigRecord(own),
            }
        )
        app(Message(content, 1, "train"), context)
    assert len([k for k in context.state if k.startswith(STATE)]) <= MOST_MEMORIES

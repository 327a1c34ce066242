"""Any reply that one client of six may send, and a grid that runs no client."""

import logging

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasc_flwr.flower.compat import travel
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.parcel import DOWNLOAD, UPLOAD
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, PAYLOAD, STYPE, UNCHANGED

CLIENTS = 6
BAD = 2

KEYS = ("arrays", "metrics", "config", "merged", CONTROL)
NAMES = (PAYLOAD, "weight", "layer.lora_A.weight", "num-examples", "loss", "total")
NASTY = ("", "\n", "1" * 5000 + "/weight", "0/bias", "-1/x", "²/x", "\x1b[2J\r\u202e")
HUGE = ("no battery\n" * 2_000, "\n" * 100_000, "x" * 100_000)
PROBLEM_NUMBERS = (0, -1, 2**63 - 1, -(2**63), 10**400, 1e308, -1e308, 1e-308, 1e30)

texts = st.one_of(
    st.sampled_from(NASTY),
    # With lone surrogates, which JSON lets through.
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(HUGE),
)
keys = st.one_of(st.sampled_from(KEYS), texts)
names = st.one_of(st.sampled_from(NAMES), texts)
numbers = st.one_of(
    st.sampled_from(PROBLEM_NUMBERS),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.integers(1, 50),
)
number_lists = st.one_of(
    st.lists(st.floats(), max_size=3), st.lists(st.integers(0, 9), max_size=3)
)
metric_records = st.builds(
    MetricRecord,
    st.one_of(
        st.dictionaries(names, st.one_of(numbers, number_lists), max_size=4),
        st.integers(99, 300).map(lambda n: {f"m{i}": float(i) for i in range(n)}),
    ),
)
config_records = st.builds(
    ConfigRecord,
    st.dictionaries(
        st.one_of(st.just(UNCHANGED), st.just(INTRODUCE), names),
        st.one_of(
            numbers,
            st.booleans(),
            st.binary(max_size=9),
            texts,
            st.lists(st.sampled_from(KEYS), max_size=3),
        ),
        max_size=3,
    ),
)


def npy(array) -> bytes:
    """Return the data of a plain Array."""
    return Array(array).data


plain_data = st.one_of(
    st.sampled_from(
        [
            npy(np.ones((7, 4), np.float32)),
            npy(np.full((20, 12), 1e38, np.float32)),
            npy(np.full(12, np.nan)),
            npy(np.array(["text"])),
            npy(np.zeros((2, 0))),
            npy(np.ones((3, 3), ">f8")),
            # Claims far more than is there.
            npy(np.ones(2)).replace(b"(2,)", b"(9999999999999,)"),
            b"PK\x05\x06" + bytes(18),
        ]
    ),
    st.binary(max_size=60),
)
shapes = st.lists(st.one_of(st.integers(-2, 20), st.just(2**40)), max_size=3).map(tuple)
dtypes = st.one_of(st.sampled_from(["float32", "uint8", "O", "float64", "U4"]), texts)
stypes = st.one_of(st.sampled_from(["numpy.ndarray", STYPE, UPLOAD, DOWNLOAD]), texts)


def damaged(data: bytes):
    """Return the bytes of an array, or a payload, cut short or with one changed."""

    def flipped(hit):
        at, mask = hit
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    places = st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255))
    cut = st.integers(0, len(data)).map(lambda size: data[:size])
    return st.one_of(st.just(data), places.map(flipped), cut)


def arrays(like: Array):
    """Return Arrays of anything; many differ from a given one in a single field."""
    data = st.one_of(damaged(like.data), plain_data)
    made_up = st.builds(Array, dtypes, shapes, stypes, data)
    same = st.just(like.dtype), st.just(like.shape), st.just(like.stype)
    one_field = [
        st.builds(Array, *same, data),
        st.builds(Array, dtypes, *same[1:], st.just(like.data)),
        st.builds(Array, same[0], shapes, same[2], st.just(like.data)),
        st.builds(Array, *same[:2], stypes, st.just(like.data)),
    ]
    return st.one_of(made_up, one_field[0], *one_field)


def contents(honest: RecordDict):
    """Return contents of anything: all made up, or an honest one with changes."""
    entries = [(key, name) for key, record in honest.items() for name in record]
    held = [a for record in honest.array_records.values() for a in record.values()]
    # The payload, where there is one.
    held.sort(key=lambda array: not array.stype.startswith(STYPE))
    like = held[0] if held else Array(np.ones(2))
    array_records = st.builds(
        ArrayRecord, st.dictionaries(names, arrays(like), max_size=3)
    )
    records = st.one_of(metric_records, config_records, array_records)
    made_up = st.dictionaries(keys, records, max_size=4)

    def value_for(entry):
        """Return another value of one entry, or a second one beside it."""
        key, name = entry
        old = honest[key][name]
        new = (
            arrays(old)
            if isinstance(old, Array)
            else st.one_of(numbers, numbers, number_lists)
        )
        where = st.sampled_from([name, name, name, None]).flatmap(
            lambda chosen: names if chosen is None else st.just(chosen)
        )
        return st.tuples(st.just(key), where, new)

    def changed(values, dropped, additions):
        content = copied(honest)
        for key, name, value in values:
            content[key][name] = value
        for key, name in dropped:
            content[key].pop(name, None)
        return dict(content) | additions

    changes = st.builds(
        changed,
        st.lists(st.sampled_from(entries).flatmap(value_for), max_size=2),
        st.one_of(st.just([]), st.lists(st.sampled_from(entries), max_size=1)),
        st.one_of(st.just({}), st.dictionaries(keys, records, max_size=2)),
    )
    return st.one_of(changes, changes, changes, made_up).map(RecordDict)


def replies(honest: RecordDict):
    """Return what a client may reply: a content, or an error."""
    reasons = st.one_of(st.none(), texts)
    errors = st.builds(Error, st.integers(-5, 500), reasons)
    return st.one_of(*[contents(honest)] * 9, errors)


def copied(content: RecordDict) -> RecordDict:
    """Return a copy with records of its own."""
    return RecordDict({key: type(one)(dict(one)) for key, one in content.items()})


class Replaying(LocalGrid):
    """A grid whose clients always reply the same, and one of them anything.

    Parameters
    ----------
    honest : dict[tuple[int, str], RecordDict]
        What each client replies, by its index and the type of the message.
    hostile : dict[str, RecordDict | Error]
        What client `BAD` replies instead, by the type of the message.
    """

    def __init__(self, honest, hostile=None):
        super().__init__(self._reply, CLIENTS)
        self._honest = honest
        self._hostile = hostile or {}

    def push_messages(self, messages):
        ids = []
        for index, message in enumerate(messages):
            message_id = f"{len(self._replies)}/{index}/{id(message)}"
            message.metadata.__dict__["_message_id"] = message_id
            context = self._contexts[message.metadata.dst_node_id]
            self._replies[message_id] = self._reply(message, context)
            ids.append(message_id)
        return ids

    def _reply(self, message, context):
        client = context.node_config["partition-id"]
        kind = message.metadata.message_type
        if INTRODUCE in message.content.config_records.get(CONTROL, {}):
            answer = ConfigRecord({"name": str(client)})
            return Message(RecordDict({CONTROL: answer}), reply_to=message)
        if client != BAD or kind not in self._hostile:
            return Message(copied(self._honest[client, kind]), reply_to=message)
        sent = self._hostile[kind]
        if isinstance(sent, Error):
            return Message(Error(sent.code, sent.reason), reply_to=message)
        reply = Message(copied(sent), reply_to=message)
        try:
            return travel(reply)
        except Exception:
            return reply  # no link would carry it: the reader has to stand it, too


def recorded(client_app, start):
    """Run `start` with a grid of honest clients; return what each replied."""
    honest = {}

    def app(message, context):
        kind = message.metadata.message_type
        reply = client_app(message, context)
        if INTRODUCE not in message.content.config_records.get(CONTROL, {}):
            honest[context.node_config["partition-id"], kind] = copied(reply.content)
        return reply

    start(LocalGrid(app, CLIENTS))
    return honest


class Lines(logging.Handler):
    """Keeps the lines of Flower's log while it is entered."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("flwr").addHandler(self)
        return self.lines

    def __exit__(self, *_):
        logging.getLogger("flwr").removeHandler(self)


def attack(check, honest: RecordDict, number: int):
    """Call `check` with a number of generated replies."""

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(replies(honest))
    def try_all(reply):
        check(reply)

    try_all()


exhaustive = pytest.param(
    1_000, marks=[pytest.mark.exhaustive, pytest.mark.slow], id="1000"
)

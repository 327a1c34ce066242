"""A grid that runs no client: five of six reply as recorded, and one anything."""

import logging

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from hypothesis import HealthCheck, given, settings

from flasc_flwr.flower.compat import set_metadata, travel
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import CONTROL, INTRODUCE
from tests.hostile import copied, replies

CLIENTS = 6
BAD = 2


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
            set_metadata(message, "message_id", message_id)
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
        logger = logging.getLogger("flwr")
        self.before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self.lines

    def __exit__(self, *_):
        logger = logging.getLogger("flwr")
        logger.removeHandler(self)
        logger.setLevel(self.before)


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

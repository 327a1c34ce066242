"""Every private name of Flower's that this project uses, in one file.

Public are ``flwr.app``, ``flwr.clientapp`` and ``flwr.serverapp``; anything else may
be renamed in any release. ``tests/flower/test_compat.py`` fails when that happens.
Works with flwr 1.41 and 1.42.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from typing import Any, TypeVar

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.config import parse_config_args
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SType
from flwr.common.logger import log
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flasc_flwr.core.printable import why

__all__ = [
    "FLWR_COMMAND",
    "READS_REPLIES",
    "SUPERLINK_NODE_ID",
    "ErrorCode",
    "NodeInfo",
    "Run",
    "SType",
    "TaskIdentity",
    "aggregate_metricrecords",
    "get_all_nested_objects",
    "inflate_object_from_contents",
    "load_app",
    "log",
    "mods_behind",
    "no_object_id_recompute",
    "nodes_online",
    "parse_config_args",
    "records_of",
    "set_metadata",
    "skip_unreadable_replies",
    "travel",
]

Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)

READS_REPLIES = ("aggregate_train", "_check_and_log_replies")
"""Methods of FedAvg that read the clients' replies."""

_REBUILD = "inflate_object_from_contents"

FLWR_COMMAND = "from flwr.cli.app import app; app()"
"""Python code that runs the ``flwr`` command of this environment."""


def nodes_online(grid: Grid) -> dict[int, NodeInfo]:
    """Return the nodes online now, with what the SuperLink knows of each.

    A grid that does not know more than their ids returns empty fields.
    """
    return {node.node_id: node for node in grid.get_nodes()}


def records_of(content: RecordDict, kind: type[Kind]) -> dict[str, Kind]:
    """Return the records of one kind in a content, by key.

    ``content.array_records`` and the like are dictionaries that refer to themselves and
    to the content: Python keeps all of it, with its arrays, until it next collects
    garbage, which may be several messages later.
    """
    return {key: one for key, one in content.items() if isinstance(one, kind)}


def set_metadata(message: Message, name: str, value: Any) -> None:
    """Set a field of a message's metadata that only the SuperLink may set."""
    message.metadata.__dict__[f"_{name}"] = value


def travel(message: Message) -> Message:
    """Serialize a message with all its objects and rebuild it, as a link would."""
    nested: Mapping[str, Any] = get_all_nested_objects(message)
    contents = {key: item.deflate() for key, item in nested.items()}
    arrived = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(arrived, Message)
    set_metadata(arrived, "message_id", message.metadata.message_id)
    return arrived


def mods_behind(call_next: ClientAppCallable) -> Iterator[Any]:
    """Yield the mods that a ClientApp runs after the one that was given `call_next`."""
    function: Any = call_next
    while closure := getattr(function, "__closure__", None):
        cells = dict(zip(function.__code__.co_freevars, closure, strict=True))
        if cells.keys() != {"_ffn", "_mod"}:
            return
        yield cells["_mod"].cell_contents
        function = cells["_ffn"].cell_contents


@contextmanager
def skip_unreadable_replies() -> Iterator[None]:
    """Let Flower's grid leave out replies that it cannot rebuild, instead of raising.

    A device can upload objects with a valid head and a broken body. Flower rebuilds
    them while it pulls: the exception would end the run, and the other replies of the
    same pull would be lost. Within this context such a reply counts as missing.
    """
    # Imported here: it is heavy, and devices never need it.
    from flwr.superlink.grid import http_grid

    rebuild = inflate_object_from_contents

    def guarded(object_id: str, contents: dict[str, bytes]) -> Any:
        try:
            return rebuild(object_id, contents)
        except Exception as error:
            log(WARNING, "Ignored a reply that cannot be rebuilt: %s", why(error))
            # It answers nothing that was sent, so whoever pulled it ignores it.
            question = Message(RecordDict(), SUPERLINK_NODE_ID, MessageType.TRAIN)
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason="unreadable"), reply_to=question)

    setattr(http_grid, _REBUILD, guarded)
    try:
        yield
    finally:
        setattr(http_grid, _REBUILD, rebuild)

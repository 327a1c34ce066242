"""A Flower Grid in one process: runs the ClientApp without Ray or a SuperLink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import ERROR
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from flasc_flwr.flower.compat import (
    SUPERLINK_NODE_ID,
    ErrorCode,
    Run,
    TaskIdentity,
    log,
    set_metadata,
    travel,
)

ClientAppLike = Callable[[Message, Context], Message]


class LocalGrid(Grid):
    """Runs the ClientApp for one message after the other, in this process.

    For tests and debugging: a debugger sees server and client in one stack. Every
    message is serialized and rebuilt in both directions, as Flower does.

    Parameters
    ----------
    client_app : Callable[[Message, Context], Message]
        The ClientApp.
    num_supernodes : int
        Number of nodes.
    run_config : Mapping[str, Any], optional
        The nodes' run config (default: empty).
    node_configs : Sequence[Mapping[str, Any]], optional
        Node config of each node, in addition to ``partition-id`` and
        ``num-partitions`` (default: nothing).
    log_errors : bool
        Whether what a ClientApp raises is logged with its traceback, as a device does
        (default: no).
    """

    def __init__(
        self,
        client_app: ClientAppLike,
        num_supernodes: int,
        *,
        run_config: Mapping[str, Any] | None = None,
        node_configs: Sequence[Mapping[str, Any]] | None = None,
        log_errors: bool = False,
    ) -> None:
        # Flower reads the sender of a message from its process.
        TaskIdentity.task_id = TaskIdentity.run_id = 0
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._client_app = client_app
        self._log_errors = log_errors
        self._contexts = {
            node_id: Context(
                run_id=0,
                node_id=node_id,
                node_config={
                    "partition-id": node_id - 1,
                    "num-partitions": num_supernodes,
                    **(node_configs[node_id - 1] if node_configs else {}),
                },
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for node_id in range(1, num_supernodes + 1)
        }
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Do nothing: a LocalGrid has only one run."""

    @property
    def run(self) -> Run:
        """Not available.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("a LocalGrid has no run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes: 1, 2, ..., `num_supernodes`."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp for each message, and store the replies."""
        ids = []
        for message in messages:
            message_id = str(uuid4())
            set_metadata(message, "message_id", message_id)
            self._replies[message_id] = travel(self._run_app(travel(message)))
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that were not pulled before."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push the messages, and return all replies; `timeout` has no effect."""
        return self.pull_messages(self.push_messages(messages))

    def _run_app(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._client_app(message, context)
        except Exception as error:
            if self._log_errors:
                log(ERROR, "ClientApp raised an exception", exc_info=error)
            # As in Flower: the reply of an app that raises is an error.
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=str(error)), reply_to=message)

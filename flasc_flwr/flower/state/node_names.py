"""Under which name a node is counted, and which node a reply is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import Message, Metadata

from flasc_flwr.core.printable import printable

UNNAMED = "node "
"""How names of nodes begin that have not introduced themselves."""

_LONGEST_NAME = 100


class NodeNames:
    """The names of the nodes that were sent messages in one round."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._asked: list[Metadata] = []

    def sent(self, messages: Sequence[Message], names: Sequence[str]) -> list[str]:
        """Note whom messages went to, each to the client of the same index.

        Returns
        -------
        list[str]
            The names as they are counted: printable and short.
        """
        shown = [_shown(name) for name in names]
        nodes = [message.metadata.dst_node_id for message in messages]
        self._names.update(zip(nodes, shown, strict=True))
        self._asked += [message.metadata for message in messages]
        return shown

    def introduced(self, names: Mapping[int, str]) -> dict[str, str]:
        """Set the names of nodes; return them by those that the nodes had before."""
        shown = {node: _shown(name) for node, name in names.items()}
        self._names.update(shown)
        return {unnamed(node): name for node, name in shown.items()}

    def of(self, node: int) -> str:
        """Return the name of a node; its id, if it was sent nothing."""
        return self._names.get(node, str(node))

    def node_of(self, reply: Message) -> int:
        """Return the node of a reply: the SuperLink replies for a node that is away."""
        node = reply.metadata.src_node_id
        if node in self._names:
            return node
        asked = reply.metadata.reply_to_message_id
        return next((m.dst_node_id for m in self._asked if m.message_id == asked), node)


def _shown(name: str) -> str:
    return printable(name, _LONGEST_NAME)


def unnamed(node: int) -> str:
    """Return the name under which a node is counted until it has introduced itself.

    No client can have it: see :func:`~flasc_flwr.flower.clients.introduced.named`.
    """
    return f"{UNNAMED}{node}"

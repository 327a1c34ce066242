"""A grid that loses messages and replies, and nodes that lose their state."""

import numpy as np
from flwr.app import Error, Message

from flasc_flwr.flower.compat import ErrorCode, travel
from flasc_flwr.flower.envelope import opened, payload_in
from flasc_flwr.flower.feedback.kept_memory import STATE, recalled
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, payload_of
from tests.flower.apps import client_app


class PatchyGrid(LocalGrid):
    """Events happen to a node's n-th training message: ``{(node, n): event}``.

    ``message lost``, ``reply lost``, ``repeated`` (the message comes twice; the second
    reply is lost) or ``state lost`` (before the message).
    """

    def __init__(self, nodes, events=None, *, app=None, **settings):
        super().__init__(app or client_app(), nodes, **settings)
        self.events = events or {}
        self.seen = dict.fromkeys(self._contexts, 0)
        self.sent = []
        self.delivered = []

    def _run_app(self, message):
        node = message.metadata.dst_node_id
        content = opened(message.content)
        control = dict(content.config_records.get(CONTROL, {}))
        if message.metadata.message_type != "train" or INTRODUCE in control:
            return super()._run_app(message)
        self.seen[node] += 1
        self.sent.append((node, control, payload_of(content["arrays"])))
        event = self.events.get((node, self.seen[node]))
        if event == "state lost":
            self._contexts[node].state.pop(STATE, None)
        if event == "message lost":
            return self._lost(message)
        copy = travel(message) if event == "repeated" else None
        reply = super()._run_app(message)
        if copy is not None:
            super()._run_app(copy)
        if event == "reply lost":
            return self._lost(message)
        if payload := payload_in(reply.content):
            self.delivered.append((node, int(control["memory-round"]), payload))
        return reply

    def memory(self, node):
        return recalled(self._contexts[node])

    def digests(self):
        """Return the digest of each node's reference."""
        memories = {node: self.memory(node) for node in self._contexts}
        return {n: m.reference.digest for n, m in memories.items() if m}

    def stored(self, node):
        """Return the arrays in which a node keeps its memory."""
        return self._contexts[node].state[STATE]

    def forget(self, node):
        """Delete a node's state."""
        del self._contexts[node].state[STATE]

    def damage(self, node):
        """Damage a node's state."""
        del self._contexts[node].state[STATE]["residual"]

    def configure(self, node, **settings):
        """Replace a node's own settings."""
        config = self._contexts[node].node_config
        for key in ("lora-rank", "download-density"):
            config.pop(key, None)
        config.update(settings)

    @staticmethod
    def _lost(message):
        error = Error(ErrorCode.NODE_UNAVAILABLE, "lost")
        return Message(error, reply_to=message)


def constant(step):
    """Return a trainer that adds the same to every weight."""

    def trainer(arrays, client, current):
        return {name: array + np.float32(step) for name, array in arrays.items()}

    return trainer

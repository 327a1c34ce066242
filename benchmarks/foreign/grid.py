"""A Grid that counts messages' bytes and clients' seconds, and seeds each client."""

import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Context, Message

from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import message_bytes


class CountingGrid(LocalGrid):
    """Runs the ClientApp in this process, as a node each; Flower's messages throughout.

    Every node's context is kept between messages. A node draws from generators of its
    own (Python's, NumPy's, torch's), seeded by its id and how often it was called, as
    processes of their own would: the server's draws do not depend on what clients do.

    Attributes
    ----------
    down, up : int
        Bytes of whole messages, of training and evaluation.
    calls : int
        Calls of the ClientApp.
    seconds : float
        Processor seconds that these took together: other programs do not count.
    errors : list[str]
        Reasons of replies that are errors.
    """

    def __init__(self, app: Any, nodes: int, config: dict[str, Any], seed: int) -> None:
        super().__init__(self._call, nodes, run_config=config, log_errors=True)
        self._app, self._seed = app, seed
        self.down = self.up = self.calls = 0
        self.seconds = 0.0
        self.errors: list[str] = []
        self._calls_of: dict[int, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.down += sum(message_bytes(messages))
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.up += sum(message_bytes(replies))
        self.errors += [reply.error.reason for reply in replies if reply.has_error()]
        return replies

    def _call(self, message: Message, context: Context) -> Message:
        node = message.metadata.dst_node_id
        self._calls_of[node] = self._calls_of.get(node, 0) + 1
        self.calls += 1
        with drawing_apart(hash((self._seed, node, self._calls_of[node])) % 2**32):
            start = time.process_time()
            try:
                return self._app(message, context)
            finally:
                self.seconds += time.process_time() - start


@contextmanager
def drawing_apart(seed: int) -> Iterator[None]:
    """Seed the generators, and restore them afterwards."""
    torch = seed_all_of(None)
    kept = random.getstate(), np.random.get_state()
    kept_torch = torch.get_rng_state() if torch else None
    seed_all_of(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        if torch:
            torch.set_rng_state(kept_torch)


def seed_all_of(seed: int | None) -> Any:
    """Seed Python's, NumPy's and torch's generators; return torch, if it is used."""
    torch = sys.modules.get("torch")
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if torch:
            torch.manual_seed(seed)
    return torch

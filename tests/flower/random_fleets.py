"""Random runs of many rounds: any method, and nodes to which anything may happen.

All draws follow from a seed, so two runs of a case differ only where the test wants it.
"""

import copy
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Error, Message, MetricRecord, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.compat import ErrorCode, NodeInfo
from flasc_flwr.flower.envelope import opened
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.wire import (
    CONTROL,
    INTRODUCE,
    array_record,
    message_bytes,
    payload_record,
)
from tests.flower.apps import adapter, client_app
from tests.flower.test_measured_bases import ADAPTER, SIDES, Devices

ROUNDS = 6
TIMEOUT = 5.0
HEAD = "classifier.weight"
FAULTS = ("error", "garbage", "two records", "no metrics", "nan", "negative", "huge")
EXAMPLES = {"nan": float("nan"), "negative": -3, "huge": 1e300}


@dataclass
class Case:
    """A run: its method and settings, and what happens to its nodes, by round."""

    method: str
    parts: dict
    settings: dict
    configs: list
    events: dict = field(default_factory=dict)


def case(seed):
    """Draw a case; parts that do not fit the method are left out."""
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def chance(probability, choices):
        return {
            key: pick(*c) for key, c in choices.items() if rng.random() < probability
        }

    method = pick(*METHODS)
    parts = chance(
        0.3,
        {
            "error_feedback": ("none", "up", "both", "both"),
            "upload_segments": (2, 3, 5),
            "aggregation": ("zero-padding", "replication", "senders", "svd", "fair"),
            "tiers": ("density", "rank"),
            "rank_scale": ("own",),
            "exact_residual": (True,),
            "init": ("shared-seed",),
            "rank_assignment": ("validation",),
            "core_basis": ("gradient",),
        },
    )
    settings = {
        "download_density": pick("auto", 0.2, 1.0),
        "upload_density": pick("auto", 0.2, 1.0),
        "values": pick("auto", "float32", "int8", "step"),
        "fraction_train": pick(0.5, 1.0, 1.0),
        "fraction_evaluate": pick(0.0, 0.5),
        "evaluate_every": pick(1, 2),
        "weighting": pick("uniform", "examples"),
        "oversample": pick(1.0, 1.0, 2.0),
        "guard": Guard(min_replies=pick(1, 1, 2), norm_ratio=pick(0.0, 1.5)),
    }
    while not _fit(method, parts, settings):
        left_out = parts or settings
        left_out.pop(pick(*left_out))
    own = {
        "lora-rank": (1, 2, 3, 9),
        "download-density": (0.2, 0.5, 1.0),
        "upload-density": (0.2, 0.5, 1.0),
        "upload-bytes": (80, 150, 0),
        "tier": (0, 1, 2),
    }
    configs = [chance(0.2, own) for _ in range(pick(3, 5, 7))]
    drawn = Case(method, parts, settings, configs)
    for node in range(1, len(configs) + 1):
        for current in range(1, ROUNDS + 1):
            kinds = ("late", "away", "restart", "join", *FAULTS)
            what = pick(*kinds) if rng.random() < 0.35 else ""
            changed = chance(0.3, own) if what == "restart" else {}
            drawn.events[node, current] = what, changed
    return drawn


def _fit(method, parts, settings):
    try:
        strategy_of(Case(method, parts, settings, []))
    except ValueError:
        return False
    return True


def strategy_of(drawn, **more):
    """Return a new strategy for a case."""
    method = compose(drawn.method, **drawn.parts)
    settings = dict(drawn.settings)
    if method.rank_assignment == "validation":
        settings["validation"] = ValidationRanks(
            loss_of=lambda arrays: float(np.abs(arrays[HEAD]).sum()),
            low_rank=2,
            fraction=0.4,
        )
    if method.measures_bases:
        settings["core_sides"] = SIDES
    least = {"min_available_nodes": 1, "min_train_nodes": 1, "min_evaluate_nodes": 1}
    return Flasc(method=method, **least | settings | more)


class RandomFleet(LocalGrid):
    """The nodes of a case, to which its events happen.

    Parameters
    ----------
    drawn : Case
        The case.
    only_errors : bool
        Whether a device raises an error instead of any other fault.
    shuffle : int, optional
        Seed of the order in which replies arrive; by default that of the messages.
    """

    def __init__(self, drawn, *, only_errors=False, shuffle=None):
        has_cores = METHODS[drawn.method].tunes == "cores"
        app = Devices(1).fleet._client_app if has_cores else client_app()
        configs = copy.deepcopy(drawn.configs)
        super().__init__(app, len(configs), node_configs=configs)
        self.events, self.only_errors = drawn.events, only_errors
        self.order = None if shuffle is None else np.random.default_rng(shuffle)
        self.round, self.down, self.up = 0, 0, 0
        self.absent, self.late, self.training = set(), set(), set()
        self.started = dict.fromkeys(self._contexts, 0)

    def open_round(self, current):
        """Let what a round begins with happen: nodes come, leave and restart."""
        if current <= self.round:
            return
        self.round, self.absent = current, set()
        for node, context in self._contexts.items():
            what, changed = self.events.get((node, current), ("", {}))
            if what == "join" and node > 2:  # it is there from the next round on
                self.absent.add(node)
            if what == "restart":
                context.state = RecordDict()
                context.node_config.update(changed)
                self.started[node] = current

    def get_node_ids(self):
        return [node for node in self._contexts if node not in self.absent]

    def get_nodes(self):
        return [
            NodeInfo(node_id=node, last_activated_at=str(self.started[node]))
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages):
        messages = list(messages)
        self.down += sum(message_bytes(messages))
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        wanted = set(message_ids) - self.late
        ids = [i for i in self._replies if i in wanted]
        if self.order is not None and self.training & wanted:
            # Some of them, in any order.
            kept = self.order.integers(1, len(ids) + 1) if ids else 0
            ids = [ids[i] for i in self.order.permutation(len(ids))[:kept]]
        replies = list(super().pull_messages(ids))
        self.up += sum(message_bytes(replies))
        return replies

    def _run_app(self, message):
        node = message.metadata.dst_node_id
        trains = message.metadata.message_type == "train"
        if not trains or INTRODUCE in opened(message.content).get(CONTROL, {}):
            return super()._run_app(message)
        self.training.add(message.metadata.message_id)
        what, _ = self.events.get((node, self.round), ("", {}))
        if what == "away":
            error = Error(ErrorCode.NODE_UNAVAILABLE, "away")
            return Message(error, reply_to=message)
        if what == "late":
            self.late.add(message.metadata.message_id)
        reply = super()._run_app(message)
        if what not in FAULTS or reply.has_error():
            return reply
        if self.only_errors or what == "error":
            # Each by itself: the same from all would end the run.
            reason = "error " + "abcdefghi"[node]
            error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
            return Message(error, reply_to=message)
        content = opened(reply.content)
        metrics = next(k for k, r in content.items() if isinstance(r, MetricRecord))
        if what == "garbage":
            rng = np.random.default_rng([node, self.round])
            content["arrays"] = payload_record(rng.bytes(50))
        elif what == "two records":
            content["again"] = content["arrays"]
        elif what == "no metrics":
            del content[metrics]
        else:
            content[metrics]["num-examples"] = EXAMPLES[what]
        return Message(content, reply_to=message)


def evaluate(current, arrays):
    return MetricRecord({"loss": 1.0})


def run(drawn, fleet, rounds=ROUNDS, resume=None):
    """Run a case; return its state, and its last checkpoint as bytes."""
    saved = []
    strategy = strategy_of(
        drawn,
        on_round=lambda row: fleet.open_round(row["round"] + 1),
        on_checkpoint=lambda checkpoint: saved.append(checkpoint.to_bytes()),
        resume=resume and Checkpoint.from_bytes(resume),
    )
    cores = strategy.server.method.tunes == "cores"
    start = array_record(ADAPTER if cores else adapter())
    strategy.start(fleet, start, rounds, timeout=TIMEOUT, evaluate_fn=evaluate)
    return strategy.state, saved[-1] if saved else resume


def everything(state):
    """Return all that a run has changed, but for bytes and metrics."""
    arrays = {"vector": state.vector, **state.optimizer.moments, **state.merged}
    streams = {
        key: (one.turn, one.stream.reference.digest)
        for key, one in state.fleet._streams.items()
    }
    return {
        "arrays": {name: np.asarray(array).tobytes() for name, array in arrays.items()},
        "step": state.optimizer.step,
        "ranks": state.ranks,
        "streams": streams,
        "receipts": state.fleet.receipts.last,
        "replies": [row["replies"] for row in state.history],
    }

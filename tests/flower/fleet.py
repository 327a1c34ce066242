"""Stand-ins for a fleet of nodes: a clock, a grid, and what a test sees of them."""

from flwr.app import Error, Message

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.clients.roster import Roster
from flasc_flwr.flower.compat import ErrorCode, NodeInfo
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import CONTROL, INTRODUCE
from tests.flower.apps import client_app

BUDGET = Budget(download_density=0.5, upload_density=0.25)
TIMEOUT = 3600.0


class Clock:
    """Time that passes only in pauses."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Fleet(LocalGrid):
    """Nodes that may be silent, unreachable, away, or started again."""

    def __init__(self, count, *, clock=None, node_configs=None, app=None):
        super().__init__(app or client_app(), count, node_configs=node_configs)
        self.clock = clock or Clock()
        self.silent, self.unreachable, self.away = set(), set(), set()
        self.started = dict.fromkeys(self._contexts, "at first")
        self.asked = []
        self.sent = []

    def configure(self, node, **settings):
        self._contexts[node].node_config.update(
            {key.replace("_", "-"): value for key, value in settings.items()}
        )

    def get_node_ids(self):
        return [node for node in self._contexts if node not in self.away]

    def get_nodes(self):
        return [
            NodeInfo(
                node_id=node,
                last_activated_at=self.started[node],
                name=f"device {node}",
            )
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += messages
        self.asked += [
            (self.clock.now, m.metadata.dst_node_id)
            for m in messages
            if INTRODUCE in m.content.get(CONTROL, {})
        ]
        return super().push_messages(messages)

    def _run_app(self, message):
        if message.metadata.dst_node_id in self.unreachable:
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="away")
            return Message(error, reply_to=message)
        return super()._run_app(message)

    def pull_messages(self, message_ids):
        answered = [
            i
            for i in message_ids
            if i in self._replies
            and self._replies[i].metadata.src_node_id not in self.silent
        ]
        return super().pull_messages(answered)


class Sight:
    """A roster on a clock, and the last row that it wrote."""

    def __init__(self, fleet):
        self.fleet = fleet
        clock = fleet.clock
        self.roster = Roster(
            lambda name, own: BUDGET.limited_by(own),
            TIMEOUT,
            clock=clock,
            sleep=clock.sleep,
        )
        self.traffic = Traffic()
        self.round = 0
        self.open()

    def open(self):
        self.ledger = Ledger(self.round, self.traffic)
        self.round += 1

    def present(self, at_least=1):
        self.open()
        return self.roster.present(self.fleet, self.ledger, at_least=at_least)

    def nodes(self, at_least=1):
        return [one.node_id for one in self.present(at_least)]

    @property
    def waiting(self):
        return {w["node"]: w["reason"] for w in self.ledger.row().get("waiting", [])}

"""Nobody holds up a round, takes another's name or fills the server's memory."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.served import MOST_SERVED, served
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.clients import roster as roster_module
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.roster import Roster
from flasc_flwr.flower.compat import ErrorCode, NodeInfo, log
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, array_record, message_bytes
from tests.flower.apps import adapter, client_app

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


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(log.__self__, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_row_5_silent_nodes_hold_up_no_round():
    fleet = Fleet(30)
    fleet.silent = set(range(21, 31))
    sight = Sight(fleet)
    assert sight.nodes(at_least=2) == [1, 2, *range(11, 21), *range(3, 11)]
    # Once, the other nodes are given half a minute.
    assert 30 <= fleet.clock.now < 31
    began = fleet.clock.now
    for _ in range(5):
        assert len(sight.nodes(at_least=2)) == 20
    assert fleet.clock.now == began
    row = sight.ledger.row()
    assert row["waiting_nodes"] == len(row["waiting"]) == 10
    assert sight.waiting[21] == "no answer to its introduction (asked: 2)"


def test_row_5_a_run_with_silent_nodes_is_the_run_without_them(monkeypatch):
    monkeypatch.setattr(roster_module, "_GRACE", 0.0)
    runs = []
    for count in (20, 30):
        fleet = Fleet(count)
        fleet.silent = set(range(21, 31))
        strategy = Flasc(fraction_train=0.5, seed=3)
        strategy.start(fleet, array_record(adapter()), 3)
        runs.append(strategy)
    few, many = runs
    np.testing.assert_array_equal(many.state.vector, few.state.vector)
    assert [row["replies"] for row in many.state.history] == [0, 10, 10, 10]
    assert "waiting" not in few.state.history[1]
    assert [row["waiting_nodes"] for row in many.state.history] == [10] * 4
    # The question is counted where it was sent; nothing else is more.
    assert many.state.traffic.totals(2) == few.state.traffic.totals(2)


def test_row_5_the_row_names_some_of_those_who_are_missing():
    fleet = Fleet(50)
    fleet.silent = set(range(2, 51))
    sight = Sight(fleet)
    assert sight.nodes() == [1]
    row = sight.ledger.row()
    assert row["waiting_nodes"] == 49
    assert len(row["waiting"]) == 20


def test_a_silent_node_is_asked_again_ever_more_rarely():
    fleet = Fleet(2)
    fleet.silent = {2}
    sight = Sight(fleet)
    for _ in range(3000):
        sight.present()
        fleet.clock.sleep(1)
    times = [round(when) for when, node in fleet.asked if node == 2]
    assert times[:6] == [0, 30, 90, 210, 450, 930]
    assert np.diff(times).max() <= 602
    assert [node for _, node in fleet.asked].count(1) == 1


def test_an_unreachable_node_is_asked_again_ever_more_rarely():
    fleet = Fleet(2)
    fleet.unreachable = {2}
    sight = Sight(fleet)
    for _ in range(100):
        sight.present()
        fleet.clock.sleep(1)
    times = [round(when) for when, node in fleet.asked if node == 2]
    assert times == [0, 1, 3, 7, 15, 31, 63]
    assert sight.waiting[2] == "unreachable (away)"
    # Its messages are counted apart from those of clients.
    assert {"0", "node 2"} == {sent.client for sent in sight.traffic.sent}


def test_a_late_answer_lets_a_node_in_without_a_new_question():
    fleet = Fleet(3)
    fleet.silent = {3}
    sight = Sight(fleet)
    assert sight.nodes() == [1, 2]
    fleet.silent = set()
    sight.open()
    asked = len(fleet.asked)
    sight.roster.listen(fleet, sight.ledger)  # too early to look again
    assert asked == len(fleet.asked)
    fleet.clock.sleep(10)
    sight.roster.listen(fleet, sight.ledger)
    assert sight.nodes() == [1, 2, 3]
    assert sight.waiting == {}
    assert sight.traffic.by_client()["2"] > 0


def test_the_first_round_waits_for_enough_nodes_and_for_the_rest():
    clock = Clock()

    class Slow(Fleet):
        def pull_messages(self, message_ids):
            self.silent = {node for node in self._contexts if clock.now < 20 * node}
            return super().pull_messages(message_ids)

    fleet = Slow(5, clock=clock)
    # Each answers 20 s after the one before: all are in the first cohort.
    assert Sight(fleet).nodes(at_least=2) == [1, 2, 3, 4, 5]
    assert 100 <= clock.now < 101


def test_too_few_nodes_end_the_run_after_the_timeout():
    fleet = Fleet(3)
    fleet.silent = {2, 3}
    with pytest.raises(RuntimeError, match="1 of at least 2 nodes"):
        Sight(fleet).nodes(at_least=2)
    assert TIMEOUT <= fleet.clock.now < TIMEOUT + 1


def test_a_refused_node_that_is_online_on_its_own_does_not_end_the_run():
    fleet = Fleet(2, node_configs=[{}, {"upload-density": 7.0}])
    sight = Sight(fleet)
    assert sight.nodes() == [1]
    fleet.away = {1}
    began, sleep = fleet.clock.now, fleet.clock.sleep

    def later(seconds):
        sleep(seconds)
        if fleet.clock.now > began + 60:
            fleet.away = set()

    sight.roster._sleep = later
    assert sight.nodes() == [1]


def test_row_6_a_second_node_of_a_name_is_refused_and_both_are_named(warnings):
    fleet = Fleet(3, node_configs=[{}, {"partition-id": 0}, {}])
    sight = Sight(fleet)
    for _ in range(3):
        assert sight.nodes() == [1, 3]
    (line,) = [r.getMessage() for r in warnings.records if "cannot" in r.getMessage()]
    assert line.startswith(
        "Node 2 (device 2) cannot take part while Node 1 (device 1) does: both are "
        "called '0'"
    )
    assert sight.waiting == {2: "its name '0' is that of node 1"}
    assert sight.ledger.row()["waiting_nodes"] == 1
    # Its messages are not the other's.
    assert sight.traffic.by_client()["0"] == sight.traffic.by_client()["2"]


def test_row_6_a_restarted_node_gets_its_name_back():
    """A SuperNode without a registered key has another id after a restart."""
    fleet = Fleet(2, node_configs=[{}, {"partition-id": 0}])
    fleet.away = {2}
    sight = Sight(fleet)
    assert sight.nodes() == [1]
    fleet.away = set()  # the SuperLink has not noticed yet that the first is gone
    assert sight.nodes() == [1]
    fleet.away = {1}
    assert sight.nodes() == [2]
    assert sight.waiting == {}
    fleet.away = set()
    assert sight.nodes() == [2]
    assert sight.waiting == {1: "its name '0' is that of node 2"}


def test_row_6_a_rank_belongs_to_the_node_that_earned_it():
    validation = ValidationRanks(loss_of=lambda arrays: 0.5, low_rank=1, fraction=0.1)
    strategy = Flasc(method="replication", validation=validation, seed=3)
    strategy.start(Fleet(6), array_record(adapter()), 1)
    ranks = strategy.state.ranks
    ((name, rank),) = ranks.items()
    assert rank == 4
    earned = strategy.state.rank_nodes[name]

    def given(node):
        client = Participant(node_id=node, name=name, budget=Budget())
        return strategy.server.budget_of(client).rank

    assert (given(earned), given(99), given(earned)) == (4, 1, 4)
    # A resumed run has only the name: its first node has the rank.
    strategy.server.resume(replace(strategy.state, rank_nodes={}))
    assert (given(99), given(earned), given(99)) == (4, 1, 4)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a\x1b[2Jb\n\nc", "a [2Jb c"),
        ("\u202eevil", "evil"),
        ("x" * 5000, "x" * 57 + "..."),
        (7, "7"),
    ],
)
def test_row_7_names_are_printable_and_short(given, name):
    fleet = Fleet(1, app=answering({"name": given}))
    (participant,) = Sight(fleet).present()
    assert participant.name == name


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "\n"},
        {"name": "node 3"},
        {"upload-density": [0.5, 0.5]},
        {"upload-density": b"\xff" * 10_000},
        {"download-density": float("nan")},
        {"download-density": "1/" + "9" * 5000},
        {"lora-rank": 0},
        {"lora-rank": True},
        {"lora-rank": "\x1b[2J" * 1000},
        {"tier": "\n\n"},
    ],
)
def test_row_7_an_answer_that_cannot_be_used_leaves_the_node_out(answer, warnings):
    honest, bad = client_app(), answering(answer)

    def app(message, context):
        one = bad if message.metadata.dst_node_id == 2 else honest
        return one(message, context)

    method = Flasc(method="flasc").server.allotment.of
    sight = Sight(Fleet(2, app=app))
    sight.roster._budget_of = method
    usable = answer == {"tier": "\n\n"}  # not asked for by this method
    assert sight.nodes() == ([1, 2] if usable else [1])
    reasons = [*sight.waiting.values(), *(r.getMessage() for r in warnings.records)]
    assert all(text.isprintable() and len(text) < 450 for text in reasons)
    assert len(sight.waiting) == (not usable)


@pytest.mark.parametrize("reason", ["\n", "", "\x1b[2J", "x" * 5_000_000, "a\nb\n \n"])
@pytest.mark.parametrize("code", [0, 2, ErrorCode.NODE_UNAVAILABLE, -7])
def test_row_7_an_error_leaves_the_node_out(reason, code, warnings):
    honest = client_app()

    def app(message, context):
        if message.metadata.dst_node_id == 2:
            return Message(Error(code=code, reason=reason), reply_to=message)
        return honest(message, context)

    sight = Sight(Fleet(2, app=app))
    assert sight.nodes() == [1]
    assert sight.waiting.keys() == {2}
    reasons = [*sight.waiting.values(), *(r.getMessage() for r in warnings.records)]
    assert all(text.isprintable() and len(text) < 450 for text in reasons)


def answering(answer):
    """Return an app that introduces itself with these settings."""

    def app(message, context):
        content = RecordDict({CONTROL: ConfigRecord(answer)})
        return Message(content, reply_to=message)

    return app


def test_row_9_densities_that_differ_in_the_last_digit_are_one():
    run = Budget(download_density=0.3, upload_density=0.1)
    budgets = {
        run.limited_by({"download-density": 0.2 + i * 1e-9, "upload-density": "1/3"})
        for i in range(1000)
    }
    assert budgets == {Budget(download_density=819 / 4096, upload_density=1365 / 4096)}
    # What the run sets stays as it is, also where a node repeats it.
    assert run.limited_by({"download-density": 0.3, "upload-density": 0.1}) == run
    assert run.limited_by({}) == run
    assert run.limited_by({"upload-density": 1e-300}).upload_density == 1 / 4096
    assert run.limited_by({"upload-density": 1.0}).upload_density == 1.0


def test_row_9_the_budgets_of_a_round_are_limited():
    own = [
        {"download-density": (100 + i) / 4096, "upload-density": (900 - i) / 4096}
        for i in range(40)
    ]
    fleet = Fleet(40, node_configs=own)
    strategy = Flasc(fraction_train=1.0, seed=3)
    made = []
    encode = strategy.server.encode
    strategy.server.encode = lambda budget: made.append(budget) or encode(budget)
    strategy.start(fleet, array_record(adapter()), 1)
    assert strategy.state.history[1]["replies"] == 40
    assert len(set(made)) <= MOST_SERVED
    assert len({id(m.content) for m in fleet.sent[40:]}) <= MOST_SERVED


@pytest.mark.parametrize("seed", range(50))
def test_row_9_nobody_is_served_more_than_its_budget(seed):
    rng = np.random.default_rng(seed)
    wanted = [
        Budget(
            rank=int(rank) if rank else None,
            download_density=(down + 1) / 4,
            upload_density=(up + 1) / 4,
        )
        for rank, down, up in rng.integers(0, 4, (60, 3))
    ]
    most = int(rng.integers(1, 20))
    instead = served(wanted, most)
    assert instead.keys() == set(wanted)
    assert len(set(instead.values())) <= most
    for budget, given in instead.items():
        assert given.download_density <= budget.download_density
        assert given.upload_density <= budget.upload_density
        assert given.at_most(budget.rank) == given
    if most >= len(set(wanted)):
        assert all(budget == given for budget, given in instead.items())


def test_row_9_the_most_common_budgets_stay():
    usual = [Budget(rank=4), Budget(rank=8)]
    rare = [Budget(rank=r) for r in range(9, 30)]
    instead = served([*usual, *usual, *rare], 3)
    assert [instead[budget] for budget in usual] == usual
    assert {instead[budget].rank for budget in rare} == {8, 29}
    # The rest is moved to the next lower one.
    assert instead[Budget(rank=10)] == Budget(rank=8)
    assert served([*usual, *usual, Budget(rank=2), Budget(rank=3)], 3)[
        Budget(rank=3)
    ] == Budget(rank=2)


def test_row_11_messages_expire_with_their_round():
    fleet = Fleet(3)
    strategy = Flasc(fraction_train=1.0, fraction_evaluate=1.0)
    strategy.start(fleet, array_record(adapter()), 2, timeout=77)
    introductions, rounds = fleet.sent[:3], fleet.sent[3:]
    assert {m.metadata.ttl for m in rounds} == {77.0}
    assert len(rounds) == 12
    assert {m.metadata.message_type for m in rounds} == {"train", "evaluate"}
    # An answer that comes while a round runs is taken when it is over.
    assert {m.metadata.ttl for m in introductions} == {600.0}


def test_row_11_a_timeout_without_end_is_a_time_that_flower_accepts():
    fleet = Fleet(2)
    Flasc().start(fleet, array_record(adapter()), 1, timeout=1e300)
    assert {m.metadata.ttl for m in fleet.sent} == {365 * 86400.0}


def test_row_11_a_message_is_as_large_with_any_time():
    Fleet(1)
    content = RecordDict({CONTROL: ConfigRecord({INTRODUCE: True})})
    sizes = message_bytes(
        [Message(content, 1, MessageType.TRAIN, ttl=t) for t in (None, 0.5, 600.0, 1e7)]
    )
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("how", ["away", "started", "unreachable"])
def test_row_12_a_node_that_was_away_is_asked_for_its_budget_again(how):
    fleet = Fleet(2)
    sight = Sight(fleet)
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    fleet.configure(2, upload_density=0.125)
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    assert len(fleet.asked) == 2
    if how == "away":
        fleet.away = {2}
        assert sight.nodes() == [1]
        fleet.away = set()
    elif how == "started":  # between two looks
        fleet.started[2] = "again"
    else:
        sight.roster.away(2)
    fleet.silent = {2}
    assert [one.budget for one in sight.present()] == [BUDGET, BUDGET]
    fleet.silent = set()
    now = [one.budget for one in sight.present()]
    assert now == [BUDGET, replace(BUDGET, upload_density=0.125)]
    assert len(fleet.asked) == 3
    assert sight.present() and len(fleet.asked) == 3
    # All of it is counted as the client's.
    assert {sent.client for sent in sight.traffic.sent} == {"0", "1"}


def test_row_12_a_node_that_misses_a_round_is_asked_again():
    app, rounds = client_app(), []

    def misses_the_first_round(message, context):
        settings = message.content.get("config", {})
        if (settings.get("server-round"), context.node_id) == (1, 2):
            error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="away")
            return Message(error, reply_to=message)
        return app(message, context)

    fleet = Fleet(3, app=misses_the_first_round)
    strategy = Flasc(
        fraction_train=1.0, on_round=lambda row: rounds.append(len(fleet.asked))
    )
    strategy.start(fleet, array_record(adapter()), 3)
    assert [row["replies"] for row in strategy.state.history] == [0, 2, 3, 3]
    assert rounds == [3, 4, 4, 4]


def test_row_12_a_node_that_restarts_with_an_absurd_budget_is_left_out():
    fleet = Fleet(2)
    sight = Sight(fleet)
    assert sight.nodes() == [1, 2]
    fleet.configure(2, upload_density=-1.0)
    fleet.started[2] = "again"
    assert sight.nodes() == [1]
    fleet.configure(2, upload_density=0.5)
    fleet.started[2] = "once more"
    assert sight.nodes() == [1, 2]

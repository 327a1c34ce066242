"""Names are unique, printable and short; ranks belong to nodes."""

import logging
from dataclasses import replace

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import ErrorCode, log
from flasc_flwr.flower.wire import CONTROL, array_record
from tests.flower.apps import adapter, client_app
from tests.flower.fleet import Fleet, Sight


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(log.__self__, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


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

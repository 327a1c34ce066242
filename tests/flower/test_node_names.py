"""Whose reply it was, and under which name it is counted."""

from flwr.app import Error, Message, MessageType, RecordDict

from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.compat import SUPERLINK_NODE_ID, ErrorCode, TaskIdentity
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.state.node_names import NodeNames, unnamed


def test_what_the_superlink_answers_for_a_node_counts_as_the_nodes():
    TaskIdentity.task_id = TaskIdentity.run_id = 0
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    questions = [
        Message(RecordDict(), node, MessageType.TRAIN, group_id="1")
        for node in (770, 880)
    ]
    traffic = Traffic()
    ledger = Ledger(1, traffic)
    ledger.sent(questions, ["a", "b"])
    # Flower gives a message its id when it is sent.
    for question, name in zip(questions, ("first", "second"), strict=True):
        question.metadata.__dict__["_message_id"] = name
    away = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="no heartbeat")
    reply = Message(away, reply_to=questions[1])
    reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    ledger.received(reply)
    ledger.rejected(reply, "no heartbeat")
    (failure,) = ledger.row()["failures"]
    assert failure == {"client": "b", "node": 880, "reason": "no heartbeat"}
    assert set(traffic.by_client()) == {"a", "b"}


def test_a_node_is_counted_under_its_new_name_once_it_has_introduced_itself():
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 0
    question = Message(RecordDict(), 770, MessageType.TRAIN, group_id="1")
    names = NodeNames()
    assert names.sent([question], [unnamed(770)]) == ["node 770"]
    assert names.of(770) == "node 770"
    assert names.introduced({770: "a\nb" + "x" * 200}) == {"node 770": names.of(770)}
    assert names.of(770).startswith("a bx") and len(names.of(770)) == 100
    assert names.of(880) == "880"

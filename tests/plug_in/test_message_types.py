"""Evaluation, queries and replies without arrays; and the bytes of all messages."""

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import flasc_mod
from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.wire import PAYLOAD, array_record, arrays_of, message_bytes
from tests.plug_in.numpy_app import (
    MASKS,
    SPARSE,
    WHOLE,
    client_app,
    flat,
    mixed,
    run_wrapped,
)


def test_evaluation_messages_are_sparse():
    """The app sees what a client can receive, not the dense arrays."""
    _, grid, result = run_wrapped(
        download_density=1 / 10, values="float32", rounds=1, **MASKS
    )
    evaluations = [m for m in grid.down if m.metadata.message_type == "evaluate"]
    assert evaluations
    assert all(list(m.content) == ["arrays", "config"] for m in evaluations)
    (metrics,) = result.evaluate_metrics_clientapp.values()
    masked = top_k(flat(arrays_of(result.arrays)), 1 / 10).densify().sum()
    whole = sum(float(result.arrays[n].numpy().sum()) for n in WHOLE)
    assert metrics["total"] == pytest.approx(masked + whole, rel=1e-3)


class KeepingEvaluations(FedAvg):
    """Keeps the arrays in replies to evaluation."""

    def aggregate_evaluate(self, server_round, replies):
        self.evaluations = [reply.content["arrays"] for reply in replies]
        return None


def test_arrays_in_replies_to_evaluation_are_not_updates():
    app = client_app()
    evaluate = ClientApp(mods=[flasc_mod])

    @evaluate.evaluate()
    def return_arrays(message, context):
        return Message(
            RecordDict({"arrays": message.content["arrays"]}), reply_to=message
        )

    def both(message, context):
        kind = message.metadata.message_type
        return (evaluate if kind == "evaluate" else app)(message, context)

    inner = KeepingEvaluations()
    _, _, result = run_wrapped(
        both, inner, download_density=1 / 10, values="float32", **MASKS
    )
    received = top_k(flat(arrays_of(result.arrays)), 1 / 10).densify()
    for arrays in inner.evaluations:
        np.testing.assert_allclose(flat(arrays_of(arrays)), received, rtol=1e-3)


class Querying(FedAvg):
    """Sends queries in place of evaluation messages."""

    def configure_evaluate(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays})
        return [Message(content, node, "query.state") for node in grid.get_node_ids()]

    def aggregate_evaluate(self, server_round, replies):
        self.answers = [reply.content for reply in replies]
        return None


def test_a_strategy_may_send_queries():
    app = client_app()

    @app.query("state")
    def state(message, context):
        return Message(message.content, reply_to=message)

    inner = Querying()
    _, _, result = run_wrapped(app, inner)
    assert len(inner.answers) == 4
    for content in inner.answers:
        assert list(content) == ["arrays"]
        for name, array in result.arrays.items():
            assert content["arrays"][name].data == array.data


def test_a_reply_without_arrays_reaches_the_inner_strategy():
    def silent(arrays, client, current):
        return RecordDict({"metrics": MetricRecord({"num-examples": 1})})

    class Counting(FedAvg):
        def aggregate_train(self, server_round, replies):
            self.keys = [list(reply.content) for reply in replies]
            return None, None

    inner = Counting()
    run_wrapped(client_app(silent), inner)
    assert inner.keys == [["metrics"]] * 4


def test_every_byte_is_counted():
    transport, grid, _ = run_wrapped(rounds=2)
    totals = transport.traffic.totals()
    for way, messages in (("down", grid.down), ("up", grid.up)):
        payloads = [
            array.data
            for message in messages
            for record in message.content.array_records.values()
            for name, array in record.items()
            if name == PAYLOAD
        ]
        assert totals[f"payload_bytes_{way}"] == sum(map(len, payloads))
        assert totals[f"message_bytes_{way}"] == sum(message_bytes(messages))
    dense = sum(len(array.data) for array in array_record(mixed()).values())
    sent = transport.traffic.totals(1)
    assert sent["payload_bytes_up"] < dense
    # Four messages to train, four to evaluate, four replies to the former. Averaging
    # has turned the counter and the mask into floats of eight bytes.
    grown = dense + 3 * 8 - 3
    assert transport.traffic.plain_bytes(1) == 4 * (dense + grown + dense)


def test_the_upload_carries_the_fingerprint_of_the_download():
    _, grid, _ = run_wrapped(values="float32", upload_density=1 / 7)
    layout = Layout.of({name: mixed()[name] for name in SPARSE})
    for reply in grid.up[:4]:
        payload = reply.content["arrays"][PAYLOAD].data
        sparse = decode(payload, layout.size, fingerprint=layout.fingerprint)
        assert sparse.kept == layout.size // 7

"""What one client of six can do beside its payload: row by row, it changes nothing."""

import json
import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.run_folder import RunFolder, write_json
from flasc_flwr.app.reporting.summary import nothing_trained, summarise
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.printable import printable, why
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.compat import ErrorCode
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.ledger import Ledger
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app

BAD = 2
NASTY = "one\ntwo\r\x1b[31mred\x1b[0m\x07\u202egnp\u2066.exe\ud800\u2028end"


@pytest.fixture
def logged(caplog):
    caplog.set_level("DEBUG", logger="flwr")
    return lambda: [record.getMessage() for record in caplog.records]


def run(change=None, rounds=2, evaluate_fn=None, **settings):
    """Run `dense`; `change` returns what client BAD replies instead."""

    def mod(message, context, call_next):
        asked = "introduce" in message.content.config_records.get("flasc", {})
        reply = call_next(message, context)
        if change and context.node_config["partition-id"] == BAD and not asked:
            return change(message, reply) or reply
        return reply

    strategy = Flasc(
        method="dense",
        server_optimizer=Sgd(),
        **{"seed": 1, "fraction_train": 1.0, "fraction_evaluate": 1.0} | settings,
    )
    strategy.result = strategy.start(
        LocalGrid(client_app(mods=[mod, flasc_mod]), 6),
        array_record(adapter()),
        rounds,
        evaluate_fn=evaluate_fn,
    )
    return strategy


def with_metrics(*kinds, **changed):
    """Return a change of the metrics in replies to training, evaluation or both."""

    def change(message, reply):
        if message.metadata.message_type in kinds:
            metrics = {**reply.content["metrics"], **changed}
            reply.content["metrics"] = MetricRecord(metrics)

    return change


def an_error(reason, *kinds):
    """Return a change into an error, of all replies or of those of some kinds."""

    def change(message, reply):
        if message.metadata.message_type in (kinds or ("train", "evaluate")):
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=reason), reply_to=message)

    return change


def reasons_of(attacked, *kinds):
    """Check that a run is as without the client's replies; return why they are not in.

    `kinds` are those of the messages to which it sent something that is rejected.
    """
    kinds = kinds or ("train", "evaluate")
    without = run(an_error("away", *kinds))
    np.testing.assert_array_equal(attacked.state.vector, without.state.vector)
    reasons = []
    for row, expected in zip(
        attacked.state.history, without.state.history, strict=True
    ):
        measured = [n for n in expected if n.startswith(("train_", "clients_"))]
        for name in (*measured, "replies"):
            assert row[name] == expected[name]
        reasons += [failure["reason"] for failure in row["failures"]]
        assert {failure["client"] for failure in row["failures"]} <= {str(BAD)}
    assert len(reasons) == 2 * len(kinds)
    return set(reasons)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_row_1_a_metric_that_is_a_list_where_others_send_a_number(kind):
    name = {"train": "loss", "evaluate": "total"}[kind]
    attacked = run(with_metrics(kind, **{name: [1.0, 2.0]}))
    reason = f"metric '{name}' must be a finite number, got a list"
    assert reasons_of(attacked, kind) == {reason}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), []])
def test_row_1_a_metric_that_is_not_a_finite_number(value):
    (reason,) = reasons_of(run(with_metrics("train", loss=value)), "train")
    assert "metric 'loss' must be a finite number" in reason


@pytest.mark.parametrize("extra", [{"other": 1.0}, {"mine": 2, "yours": -1.0}])
def test_row_1_only_names_that_all_clients_share_are_averaged(extra, logged):
    attacked = run(with_metrics("train", **extra), fraction_evaluate=0.0)
    for row in attacked.state.history[1:]:
        assert "train_loss" in row and not row["failures"]
        assert not any(f"train_{name}" in row for name in extra)
    assert f"left out: {', '.join(extra)}" in "\n".join(logged())


def test_row_1_a_users_aggregation_function_that_raises_loses_only_the_metrics(logged):
    def failing(replies, key):
        raise KeyError(NASTY)

    strategy = run(train_metrics_aggr_fn=failing, evaluate_metrics_aggr_fn=failing)
    np.testing.assert_array_equal(strategy.state.vector, run().state.vector)
    for row in strategy.state.history[1:]:
        assert not any(name.startswith(("train_", "clients_")) for name in row)
    assert strategy.result.train_metrics_clientapp == {}
    lines = [line for line in logged() if line.startswith("No metrics: ")]
    assert {line.split()[2] for line in lines} == {
        "train_metrics_aggr_fn",
        "evaluate_metrics_aggr_fn",
    }
    assert all(line.isprintable() and "KeyError" in line for line in lines)


def test_row_1_any_exception_while_a_reply_is_read_rejects_that_reply(monkeypatch):
    from flasc_flwr.flower.server import inbox

    real = inbox.decode
    calls = iter(range(100))

    def decode(*arguments, **settings):
        if next(calls) == BAD:
            raise MemoryError(NASTY)
        return real(*arguments, **settings)

    monkeypatch.setattr(inbox, "decode", decode)
    (row,) = run(rounds=1).state.history[1:]
    (failure,) = row["failures"]
    assert row["replies"] == 5
    assert failure["reason"].startswith("MemoryError: one two")
    assert failure["reason"].isprintable()


def test_row_1_the_server_can_still_be_interrupted(monkeypatch):
    from flasc_flwr.flower.server import inbox

    def decode(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(inbox, "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        run(rounds=1)


@pytest.mark.parametrize("reason", ["\n", "", None, " \r\n\t", "\x1b\n\u202e"])
def test_row_2_an_error_whose_reason_is_a_line_break(reason):
    code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert reasons_of(run(an_error(reason))) == {f"error code {code}"}


def test_row_2_the_last_line_of_a_traceback_says_why():
    reason = (
        "Exception ClientAppException occurred. Message: \nTraceback: ...\n"
        "ValueError: out of \x1b[31mbattery\n\n \n"
    )
    said = {"ValueError: out of [31mbattery"}
    assert reasons_of(run(an_error(reason))) == said


def outside_texts(strategy):
    """Return all texts of a run that a client could have written."""
    for row in strategy.state.history:
        yield from row
        for failure in row["failures"]:
            yield from (failure["client"], failure["reason"])
    yield from strategy.state.traffic.by_client()


def nasty_array(message, reply):
    array = Array("uint8", (1,), NASTY, b"x")
    reply.content["arrays"] = ArrayRecord({NASTY: array})


@pytest.mark.parametrize(
    "change",
    [
        an_error(NASTY.replace("\ud800", "")),
        nasty_array,
        with_metrics("train", "evaluate", **{NASTY.replace("\ud800", ""): 1.0}),
        with_metrics("train", "evaluate", **{"num-examples": [1.0]}),
    ],
    ids=["reason", "array type", "metric", "examples"],
)
def test_row_7_texts_with_line_breaks_or_escape_codes(change, logged):
    attacked = run(change, rounds=1)
    assert attacked.state.history[1]["failures"]
    assert all(text.isprintable() for text in outside_texts(attacked))
    rejected = [line for line in logged() if line.startswith("Rejected reply")]
    assert rejected
    assert all(line.isprintable() for line in rejected)


def test_row_7_the_name_of_a_client():
    ledger = Ledger(1, Traffic())
    LocalGrid(client_app(), 1)  # sets who sends messages in this process
    ledger.sent([Message(RecordDict(), 5, "train")], ["5"])
    ledger.introduced({5: NASTY})
    reply = Message(RecordDict(), 5, "train")
    reply.metadata.__dict__["_src_node_id"] = 5
    ledger.received(reply)
    ledger.rejected(reply, NASTY)
    (failure,) = ledger.row()["failures"]
    assert failure["client"].isprintable() and failure["reason"].isprintable()
    assert all(name.isprintable() for name in ledger._traffic.by_client())


def test_row_7_the_files_of_a_run_that_failed(tmp_path, logged):
    config = RunConfig.parse({"output-dir": str(tmp_path)})
    with pytest.raises(RuntimeError), RunFolder.create(config, run_id=1) as folder:
        raise RuntimeError(NASTY + "x" * 5_000_000)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["ended"].isprintable() and len(summary["ended"]) < 2100
    assert all(line.isprintable() for line in logged())


def test_row_8_a_reason_of_5_mb():
    (reason,) = reasons_of(run(an_error("no battery " * 500_000)))
    assert len(reason) == 300 and reason.endswith("...")


def test_row_8_20_000_metric_names():
    many = {f"m{i}": 1.0 for i in range(20_000)}
    reasons = reasons_of(run(with_metrics("train", **many)), "train")
    assert reasons == {"expected at most 100 metrics, got 20002"}


@pytest.mark.parametrize("name", ["n" * 101, "n" * 1_000_000, "", "a\nb", "\x1b[2J"])
def test_row_8_a_name_that_is_long_or_not_printable(name):
    (reason,) = reasons_of(run(with_metrics("train", **{name: 1.0})), "train")
    assert f"must be 1 to 100 printable characters, got {len(name)}: " in reason
    assert reason.isprintable() and len(reason) <= 300


def test_row_8_a_summary_shows_short_printable_reasons():
    """Also of a history that was written before reasons were cut."""
    failure = {"client": "2", "node": 3, "reason": NASTY + "x" * 5_000_000}
    row = {"round": 1, "skipped": True, "failures": [failure], "seconds": 1.0}
    (reason,) = summarise([row], Traffic(), 1, "ended")["failures"]
    assert len(reason) == 300 and reason.isprintable()
    assert nothing_trained([row]).isprintable()


def test_row_10_an_evaluation_that_claims_1e308_examples():
    attacked = run(with_metrics("evaluate", **{"num-examples": 1e308}))
    reason = "number of examples must be <= 1e+07, got 1e+308"
    assert reasons_of(attacked, "evaluate") == {reason}


@pytest.mark.parametrize(
    "name",
    [
        "round",
        "replies",
        "failures",
        "payload_bytes_up",
        "skipped",
        "seconds",
        "skip_reason",
        "waiting",
        "waiting_nodes",
        "train_loss",
        "clients_loss",
    ],
)
def test_a_metric_of_evaluate_fn_cannot_overwrite_a_field_of_the_row(name):
    def evaluate(server_round, arrays):
        return MetricRecord({"accuracy": 0.5, name: 7.0})

    with pytest.raises(ValueError, match=f"must not name a metric '{name}'"):
        run(evaluate_fn=evaluate)


def test_a_metric_of_the_server_vector_cannot_overwrite_another():
    def evaluate(server_round, arrays):
        return MetricRecord({"accuracy": 0.5, "server_accuracy": 0.7})

    with pytest.raises(ValueError, match="'accuracy' and 'server_accuracy'"):
        run(evaluate_fn=evaluate)


def test_a_metric_of_a_client_cannot_overwrite_a_field_of_the_row():
    fields = dict(run(rounds=1).state.history[1])
    taken = {name: 7.0 for name in fields}

    def everyone(message, context, call_next):
        reply = call_next(message, context)
        if "metrics" in reply.content:
            metrics = {**reply.content["metrics"], **taken}
            reply.content["metrics"] = MetricRecord(metrics)
        return reply

    strategy = Flasc(method="dense", fraction_train=1.0, fraction_evaluate=1.0)
    app = client_app(mods=[everyone, flasc_mod])
    strategy.start(LocalGrid(app, 6), array_record(adapter()), 1)
    row = strategy.state.history[1]
    assert row["round"] == 1 and row["replies"] == 6 and row["failures"] == []
    assert row["train_round"] == pytest.approx(7.0) == row["clients_round"]


def test_rows_are_standard_json(tmp_path):
    def evaluate(server_round, arrays):
        return MetricRecord({"accuracy": float("nan"), "loss": [1.0, float("inf")]})

    (_, row) = run(rounds=1, evaluate_fn=evaluate).state.history
    assert row["accuracy"] is None and row["loss"] == [1.0, None]
    json.dumps(row, allow_nan=False)
    assert as_json({"a": float("nan"), "b": [{"c": -float("inf")}]}) == (
        '{"a": null, "b": [{"c": null}]}'
    )
    write_json(tmp_path / "summary.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"loss": None}


def test_printable_text():
    shown = printable(NASTY)
    assert shown == "one two [31mred [0m gnp .exe end"
    assert printable("plain text, ä, 日本") == "plain text, ä, 日本"
    assert printable("  \n ") == "" == printable("")
    for limit in (10, 100, 300):
        cut = printable("word " * 1000, limit)
        assert len(cut) <= limit and cut.endswith("...")
        assert printable(cut, limit) == cut
    assert printable(" " * 1_000_000 + "x") == "..."
    assert printable(None) == "None"


def test_why_names_the_type_of_what_is_unexpected():
    assert why(ValueError("too\nlong")) == "too long"
    assert why(ValueError()) == "ValueError"
    assert re.fullmatch("KeyError: 'a'", why(KeyError("a")))

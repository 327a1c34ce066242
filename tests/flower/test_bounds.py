"""One client of six, with the default bounds: its size and its weight bend nothing."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.aggregation.average import Average
from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import AdamW, Sgd
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, payload_record
from tests.flower.apps import adapter, client_app

LAYOUT = Layout.of(adapter())
BAD, CLIENTS = 2, 6
OTHERS = [i for i in range(CLIENTS) if i != BAD]
HUGE = 1e30 * np.ones(LAYOUT.size, np.float32)
REPLACING = ["flexlora", "flora", "fedex-lora"]


def run(rounds=3, mods=(), present=range(CLIENTS), **settings):
    strategy = Flasc(**{"seed": 1, "fraction_train": 1.0} | settings)
    grid = LocalGrid(client_app(mods=[*mods, flasc_mod]), CLIENTS)
    grid.get_node_ids = lambda: [i + 1 for i in present]
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy


def changing(change, clients=(BAD,), kind="train", rounds=None):
    """Return a mod that changes some clients' replies to one kind of message."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        asked = "arrays" in message.content.array_records
        if (
            asked
            and message.metadata.message_type == kind
            and context.node_config["partition-id"] in clients
            and (not rounds or message.content["config"]["server-round"] in rounds)
        ):
            change(reply)
        return reply

    return mod


def sending(vector):
    def change(reply):
        payload = encode(top_k(vector, 1.0), "float32", layout=LAYOUT)
        reply.content["arrays"] = payload_record(payload)

    return change


def claiming(examples):
    def change(reply):
        metrics = {**reply.content["metrics"], "num-examples": examples}
        reply.content["metrics"] = MetricRecord(metrics)

    return change


def assert_same_result(ours, theirs):
    np.testing.assert_array_equal(ours.state.vector, theirs.state.vector)
    assert ours.state.optimizer.step == theirs.state.optimizer.step
    for held in ("merged", "moments"):
        mine, other = (
            s.state.merged if held == "merged" else s.state.optimizer.moments
            for s in (ours, theirs)
        )
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


@pytest.mark.parametrize("method", ["flasc", "dense", "hetlora", *REPLACING])
def test_row_3_a_huge_finite_update_is_rejected_and_bends_nothing(method):
    attacked = run(mods=[changing(sending(HUGE))], method=method)
    without = run(method=method, present=OTHERS)
    assert_same_result(attacked, without)
    assert attacked.state.optimizer.step == 3
    for row in attacked.state.history[1:]:
        (failure,) = row["failures"]
        assert failure["client"] == str(BAD)
        assert "10 times the median of the round's updates, got " in failure["reason"]
        assert row["replies"] == 5 and not row["skipped"]


@pytest.mark.parametrize("method", ["flasc", *REPLACING])
def test_row_3_without_a_bound_the_step_is_undone_and_the_next_rounds_train(method):
    """Four clients are too few for a median: nothing infinite is kept all the same."""
    attack = changing(sending(HUGE), rounds=[2])
    four = range(4)
    attacked = run(3, mods=[attack], method=method, present=four)
    row = attacked.state.history[2]
    assert row["skipped"] and "not finite" in row["skip_reason"]
    assert row["replies"] == 4 and not row["failures"]
    assert attacked.state.optimizer.step == 2
    assert np.isfinite(attacked.state.vector).all()
    # The state is as it was after round 1, moments and what was merged included.
    stopped = run(2, mods=[attack], method=method, present=four)
    assert_same_result(stopped, run(1, method=method, present=four))
    trained = attacked.state.history[3]
    assert not trained["skipped"] and "skip_reason" not in trained
    assert np.abs(attacked.state.vector - stopped.state.vector).max() > 0


def test_a_skipped_round_is_logged_with_its_reason(caplog):
    run(1, mods=[changing(sending(HUGE))], present=range(4))
    (line,) = [m for m in caplog.messages if "skipped" in m]
    assert line == "Round 1 skipped: the optimizer's moments are not finite"


def test_a_round_with_too_few_replies_says_so_in_its_row():
    row = run(1, present=range(4), guard=Guard(min_replies=5)).state.history[1]
    assert row["skip_reason"] == "4 valid replies, at least 5 needed"


@pytest.mark.parametrize("method", ["flasc", *REPLACING])
def test_the_bounds_change_no_bit_of_an_honest_run(method):
    unbounded = Guard(norm_ratio=0.0, examples_ratio=0.0)
    for weighting in ("uniform", "examples"):
        bounded = run(method=method, weighting=weighting)
        assert_same_result(
            bounded, run(method=method, weighting=weighting, guard=unbounded)
        )
        assert not any(row["failures"] for row in bounded.state.history)


def test_the_bound_on_norms_can_be_switched_off():
    strategy = run(
        1,
        mods=[changing(sending(HUGE))],
        method="dense",
        server_optimizer=Sgd(),
        guard=Guard(norm_ratio=0.0),
    )
    assert strategy.state.history[1]["replies"] == CLIENTS
    assert strategy.state.vector.max() > 1e29


def test_a_private_run_rejects_nothing_by_the_others_norms():
    pytest.importorskip("dp_accounting")
    privacy = Privacy(
        clip_norm=1.0, noise_multiplier=1.0, population=CLIENTS, noise_seed=0
    )
    strategy = run(2, mods=[changing(sending(HUGE))], privacy=privacy)
    for row in strategy.state.history[1:]:
        assert row["replies"] == CLIENTS and not row["failures"]
    assert np.abs(strategy.state.vector).max() < 100


def test_an_update_that_is_infinite_once_it_is_rescaled_is_rejected():
    """With own scales, B of a client of lower rank is divided by r / lora-rank."""
    small = Layout.of(adapter(rank=1))

    def change(reply):
        vector = np.full(small.size, 3e38, np.float32)
        payload = encode(top_k(vector, 1.0), "float32", layout=small)
        reply.content["arrays"] = payload_record(payload)

    method = compose("flexlora", rank_scale="own")
    attack = changing(change, clients=[0])  # the lowest tier
    attacked = run(mods=[attack], method=method, guard=Guard(norm_ratio=0.0))
    assert_same_result(attacked, run(method=method, present=range(1, CLIENTS)))
    for row in attacked.state.history[1:]:
        assert "norm of the update must be finite" in row["failures"][0]["reason"]


def test_row_10_an_evaluation_that_claims_1e308_examples_is_rejected():
    def failing(reply):
        raise RuntimeError("no battery")

    lying, silent = (
        run(mods=[changing(change, kind="evaluate")], fraction_evaluate=1.0)
        for change in (claiming(1e308), failing)
    )
    for row, other in zip(
        lying.state.history[1:], silent.state.history[1:], strict=True
    ):
        assert row["clients_total"] == other["clients_total"]
        (failure,) = row["failures"]
        assert "number of examples must be <= 1e+07" in failure["reason"]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_row_10_metrics_count_a_client_ten_times_the_median_at_most(kind):
    everybody = changing(claiming(20), range(CLIENTS), kind)
    name = {"train": "train_loss", "evaluate": "clients_total"}[kind]
    values = []
    for claimed in (1e7, 200.0):
        lie = changing(claiming(claimed), kind=kind)
        strategy = run(1, mods=[lie, everybody], fraction_evaluate=1.0)
        values.append(strategy.state.history[1][name])
    assert values[0] == values[1]


def test_row_10_an_update_counts_ten_times_the_median_at_most():
    everybody = changing(claiming(20), range(CLIENTS))
    settings = {
        "method": "dense",
        "weighting": "examples",
        "server_optimizer": Sgd(),
    }
    lying, capped, unbounded = (
        run(mods=[changing(claiming(claimed)), everybody], guard=guard, **settings)
        for claimed, guard in (
            (1e7, None),
            (200.0, None),
            (1e7, Guard(examples_ratio=0.0)),
        )
    )
    np.testing.assert_array_equal(lying.state.vector, capped.state.vector)
    assert np.abs(lying.state.vector - unbounded.state.vector).max() > 0
    assert not any(row["failures"] for row in lying.state.history)


def test_row_10_a_huge_frobenius_weight_is_capped(monkeypatch):
    weights = []
    add = Average.add

    def spy(self, contribution):
        weights.append(contribution.weight)
        add(self, contribution)

    monkeypatch.setattr(Average, "add", spy)
    # The bound on norms, which would reject it, is off.
    big = changing(sending(1e3 * np.ones(LAYOUT.size, np.float32)))
    run(1, mods=[big], method="hetlora", guard=Guard(norm_ratio=0.0))
    assert len(weights) == CLIENTS
    # The norm of a product of two factors: the square of the ratio.
    assert max(weights) == 10**2 * np.median(weights)


def test_bad_ratios_are_refused():
    with pytest.raises(ValueError, match="update-norm-ratio must be 0 or a number in"):
        Guard(norm_ratio=0.5)
    with pytest.raises(ValueError, match="max-examples-ratio must be 0 or a number"):
        Guard(examples_ratio=-1.0)


def test_a_moment_that_would_be_infinite_undoes_the_whole_step():
    """1e25 is finite, and so is the step; its square is not."""
    strategy = run(
        1,
        mods=[changing(sending(HUGE * np.float32(1e-5)))],
        present=range(4),
        method="dense",
        server_optimizer=AdamW(),
    )
    state = strategy.state
    assert state.optimizer.step == 0 and not state.optimizer.moments["v"].any()
    np.testing.assert_array_equal(state.vector, LAYOUT.flatten(adapter()))

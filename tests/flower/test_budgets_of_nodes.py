"""Budgets on a grid, and messages that expire: memory and rounds stay bounded."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from flasc_flwr import Flasc
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.served import MOST_SERVED, served
from flasc_flwr.flower.wire import CONTROL, INTRODUCE, array_record, message_bytes
from tests.flower.apps import adapter
from tests.flower.fleet import Fleet


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

"""One client of six replies anything at all: the other five are not affected.

200 generated replies for each case, and with ``-m exhaustive`` another 1,000.
"""

import json
from functools import partial

import numpy as np
import pytest
from flwr.app import Error

from flasc_flwr import Flasc
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app
from tests.hostile import (
    BAD,
    CLIENTS,
    Lines,
    Replaying,
    attack,
    exhaustive,
    recorded,
)

METHODS = ("flasc", "dense", "flexlora")


def start(method, grid):
    strategy = Flasc(method=method, seed=1, fraction_train=1.0, fraction_evaluate=1.0)
    strategy.start(grid, array_record(adapter()), 2)
    return strategy


HONEST = {
    method: recorded(client_app(), lambda grid, m=method: start(m, grid))
    for method in METHODS
}


def everything(strategy):
    """Return the bytes of all that training has changed."""
    state = strategy.state
    arrays = {"vector": state.vector, **state.optimizer.moments, **state.merged}
    return {name: np.asarray(a).tobytes() for name, a in arrays.items()}


def without(method, kind):
    """Return a run in which the client does not take part."""
    away = {kind: Error(1, "away")}
    return start(method, Replaying(HONEST[method], away))


WITHOUT = {(m, k): without(m, k) for m in METHODS for k in ("train", "evaluate")}


def check(method, kind, reply):
    """Run two rounds in which the client sends `reply`; check that all is as it was."""
    with Lines() as lines:
        attacked = start(method, Replaying(HONEST[method], {kind: reply}))
    expected = WITHOUT[method, kind]
    rows = attacked.state.history
    json.dumps(rows, allow_nan=False)
    for row, other in zip(rows, expected.state.history, strict=True):
        rejected = row["failures"]
        for failure in rejected:
            assert failure["client"] == str(BAD)
            assert failure["reason"].isprintable() and 0 < len(failure["reason"]) <= 300
        assert all(name.isprintable() and len(name) < 120 for name in row)
        if row["round"] == 0:
            continue
        if kind == "evaluate":
            assert row["replies"] == CLIENTS
        else:
            assert row["replies"] == CLIENTS - len(rejected)
        if rejected:
            same = [n for n in other if n.startswith(("train_", "clients_"))]
            assert [row.get(n) for n in same] == [other[n] for n in same]
    if kind == "evaluate" or all(row["failures"] for row in rows[1:]):
        assert everything(attacked) == everything(expected)
    rejections = [line for line in lines if "Rejected" in line]
    assert len(rejections) == sum(len(row["failures"]) for row in rows)
    assert all(line.isprintable() and len(line) < 400 for line in rejections)


@pytest.mark.parametrize("number", [200, exhaustive])
@pytest.mark.parametrize(
    ("method", "kind"),
    [*((method, "train") for method in METHODS), ("dense", "evaluate")],
)
def test_any_reply_of_one_client_leaves_the_others_as_they_are(method, kind, number):
    attack(partial(check, method, kind), HONEST[method][BAD, kind], number)


def test_the_replies_of_these_tests_are_valid_without_a_change():
    for method in METHODS:
        strategy = start(method, Replaying(HONEST[method]))
        for row in strategy.state.history[1:]:
            assert row["replies"] == CLIENTS and not row["failures"]
        kept = everything(strategy), everything(WITHOUT[method, "train"])
        assert kept[0] != kept[1]  # what the client sends counts

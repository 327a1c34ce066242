"""Averaging rules against plain transcriptions of their formulas, and their laws."""

import numpy as np
import pytest

from flasc_flwr.core.aggregation import (
    AGGREGATIONS,
    Contribution,
    aggregator,
)
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector, top_k
from tests.core.cohort import (
    AVERAGES,
    CLIENTS,
    LAYOUT,
    RANK,
    SIZES,
    START,
    WEIGHTS,
    aggregate,
    assert_close,
    average,
    client,
    pad,
    product,
)


def test_zero_padding_averages_padded_weights():
    ours, merged = aggregate("zero-padding", CLIENTS, WEIGHTS)
    assert_close(ours, average([pad(c) for c in CLIENTS], WEIGHTS))
    assert merged == {}


def test_zero_padded_updates_average_padded_updates():
    ours, _ = aggregate("zero-padded-updates", CLIENTS, WEIGHTS)
    updates = []
    for trained in CLIENTS:
        has = pad({k: np.ones_like(v) for k, v in trained.items()})
        updates.append({k: (pad(trained)[k] - START[k]) * has[k] for k in START})
    mean = average(updates, WEIGHTS)
    assert_close(ours, {k: START[k] + mean[k] for k in START})


def test_the_two_ways_of_padding_are_two_algorithms():
    padding, _ = aggregate("zero-padding", CLIENTS)
    updates, _ = aggregate("zero-padded-updates", CLIENTS)
    tail = padding["one.lora_A.weight"][4:], updates["one.lora_A.weight"][4:]
    assert np.abs(tail[0] - tail[1]).max() > 0.1


def test_replication_averages_each_component_over_its_owners():
    ours, _ = aggregate("replication", CLIENTS, WEIGHTS)
    masked = [pad(trained, np.nan) for trained in CLIENTS]
    expected = {}
    for name in START:
        stack = np.stack([a[name] for a in masked])
        w = np.asarray(WEIGHTS).reshape(-1, 1, 1) * ~np.isnan(stack)
        expected[name] = np.nansum(stack * w, 0) / w.sum(0)
    assert_close(ours, expected)


def test_replication_is_filling_from_the_high_rank_clients_average():
    """Byun & Lee as they put it: fill what is missing, then average all."""
    clients = [client(i, 6 if i in (2, 5) else 2) for i in range(8)]
    weights = [1.0, 2.0, 3.0, 1.0, 0.5, 4.0, 1.0, 1.5]
    high = average([clients[2], clients[5]], [weights[2], weights[5]])
    filled = []
    for trained in clients:
        padded = pad(trained, np.nan)
        filled.append({k: np.where(np.isnan(v), high[k], v) for k, v in padded.items()})
    ours, _ = aggregate("replication", clients, weights)
    assert_close(ours, average(filled, weights))


def test_frobenius_weighs_by_the_norm_of_the_product():
    norms = [
        np.sqrt(sum(np.linalg.norm(product(c, m)) ** 2 for m in SIZES)) for c in CLIENTS
    ]
    ours, _ = aggregate("frobenius", CLIENTS, WEIGHTS)
    assert_close(ours, average([pad(c) for c in CLIENTS], norms))


def test_frobenius_counts_clients_alike_that_have_no_product():
    clients = [client(i, 4) for i in range(3)]
    for trained in clients:
        for module in SIZES:
            trained[f"{module}.lora_B.weight"][:] = 0
    ours, _ = aggregate("frobenius", clients)
    assert_close(ours, average([pad(c) for c in clients], [1, 1, 1]))


@pytest.mark.parametrize("name", [n for n in AVERAGES if n != "frobenius"])
def test_equal_ranks_reduce_every_average_to_fedavg(name):
    clients = [client(i, RANK) for i in range(4)]
    ours, _ = aggregate(name, clients, WEIGHTS)
    assert_close(ours, average(clients, WEIGHTS))


def test_a_lone_high_rank_clients_tail_is_kept_or_divided_by_the_cohort():
    clients = [client(0, RANK)] + [client(i, 2) for i in range(1, 10)]
    kept, _ = aggregate("replication", clients)
    divided, _ = aggregate("zero-padding", clients)
    for module in SIZES:
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        own = clients[0]
        np.testing.assert_allclose(kept[a][2:], own[a][2:], atol=1e-6)
        np.testing.assert_allclose(kept[b][:, 2:], own[b][:, 2:], atol=1e-6)
        np.testing.assert_allclose(divided[a][2:], own[a][2:] / 10, atol=1e-6)
        tail = divided[b][:, 2:] @ divided[a][2:]
        np.testing.assert_allclose(tail, own[b][:, 2:] @ own[a][2:] / 100, atol=1e-6)


def test_a_component_that_nobody_has_stays_or_vanishes():
    clients = [client(i, 2) for i in range(3)]
    a = "two.lora_A.weight"
    for name in ("replication", "zero-padded-updates"):
        np.testing.assert_array_equal(aggregate(name, clients)[0][a][2:], START[a][2:])
    padded, _ = aggregate("zero-padding", clients)
    np.testing.assert_allclose(padded[a][2:], 0, atol=1e-6)


def test_an_entry_that_was_not_sent_is_a_zero_update():
    """Divided by the cohort, never by how many sent that entry."""
    start = LAYOUT.flatten(START)
    rng = np.random.default_rng(1)
    updates = [
        top_k(rng.standard_normal(LAYOUT.size).astype(np.float32), 0.2)
        for _ in range(5)
    ]
    rule = aggregator("zero-padded-updates")(LAYOUT, start)
    for update in updates:
        rule.add(Contribution(update, RANK))
    expected = np.mean([u.densify() for u in updates], axis=0)
    np.testing.assert_allclose(rule.result().update, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["zero-padded-updates", "zero-padding", "replication"])
def test_the_mean_of_a_vector_of_several_chunks_replaces_its_sums(name):
    size = 2 * (1 << 18) + 7
    layout = Layout.of({"x": np.zeros(size, np.float32)})
    rng = np.random.default_rng(2)
    start, one, other = (rng.standard_normal(size, np.float32) for _ in range(3))
    rule = aggregator(name)(layout, start)
    for values, weight in ((one, 1.0), (other, 3.0)):
        rule.add(Contribution(SparseVector.of_dense(values), 0, weight))
    expected = (one.astype(np.float64) + 3 * other.astype(np.float64)) / 4
    np.testing.assert_array_equal(rule.result().update, expected.astype(np.float32))
    with pytest.raises(ValueError, match="the mean has 0"):
        rule.add(Contribution(SparseVector.of_dense(one), 0))


def test_small_updates_survive_among_many():
    layout = Layout.of({"x": np.zeros(1, np.float32)})
    rule = aggregator("zero-padded-updates")(layout, np.zeros(1, np.float32))
    for value in [1.0] + [1e-8] * 1000:
        rule.add(Contribution(top_k(np.array([value], np.float32), 1.0), 0))
    expected = np.float32((1 + 1000 * np.float32(1e-8)) / 1001)
    assert rule.result().update[0] == expected


@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_bad_contributions_are_refused(name):
    start = LAYOUT.flatten(START)
    rule = aggregator(name)(LAYOUT, start)
    with pytest.raises(ValueError, match="no updates"):
        rule.result()
    with pytest.raises(ValueError, match=f"size 39, the mean has {LAYOUT.size}"):
        rule.add(Contribution(top_k(np.ones(39, np.float32), 1.0), RANK))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight is"):
            rule.add(Contribution(top_k(start, 1.0), RANK, weight))

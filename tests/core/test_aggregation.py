"""Aggregation rules against plain transcriptions of their formulas, and their laws.

Clients here are plain dictionaries of A (r, in) and B (out, r) with unequal in and
out, so that a transposition shows.
"""

import tracemalloc

import numpy as np
import pytest

from flasc_flwr.core.aggregation import (
    AGGREGATIONS,
    Aggregate,
    Contribution,
    aggregator,
)
from flasc_flwr.core.aggregation.products import ExactResidual
from flasc_flwr.core.factors import (
    dead_modules,
    lora_modules,
    product_norm,
    truncated_svd,
)
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.merged import merge, product_of
from flasc_flwr.core.ranks import components, truncation
from flasc_flwr.core.sparsity import top_k

RANK, SIZES = 6, {"one": (5, 9), "two": (8, 4)}
AVERAGES = [name for name, rule in AGGREGATIONS.items() if rule.averages]


def random_adapter(seed, rank=RANK):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (n_out, n_in) in SIZES.items():
        arrays[f"{name}.lora_A.weight"] = rng.standard_normal((rank, n_in))
        arrays[f"{name}.lora_B.weight"] = rng.standard_normal((n_out, rank))
    arrays["classifier.weight"] = rng.standard_normal((3, 5))
    return {name: value.astype(np.float32) for name, value in arrays.items()}


START = random_adapter(0)
LAYOUT = Layout.of(START)


def client(seed, rank):
    """Return what a client of a rank has trained: all of its adapter is new."""
    return random_adapter(seed, rank)


def aggregate(name, clients, weights=None, exact=False, ratio=0.0):
    """Return the new adapter, as arrays, and what is merged, as arrays."""
    start = LAYOUT.flatten(START)
    rule = aggregator(name, exact_residual=exact, weight_ratio=ratio)(LAYOUT, start)
    for trained, weight in zip(clients, weights or [1.0] * len(clients), strict=True):
        rank = trained["one.lora_A.weight"].shape[0]
        cut = truncation(LAYOUT, rank)
        update = cut.layout.flatten(trained) - cut.truncate(start)
        rule.add(Contribution(cut.pad_sparse(top_k(update, 1.0)), rank, weight))
    result = rule.result()
    return LAYOUT.unflatten(start + result.update), merge({}, result.terms)


def pad(trained, fill=0.0):
    """Fill up a smaller adapter's missing components."""
    padded = {}
    for name, value in trained.items():
        missing = RANK - trained["one.lora_A.weight"].shape[0]
        widths = {"A": ((0, missing), (0, 0)), "B": ((0, 0), (0, missing))}
        kind = name.split("lora_")[1][0] if "lora_" in name else None
        padded[name] = (
            np.pad(value, widths[kind], constant_values=fill) if kind else value
        )
    return padded


def average(adapters, weights):
    p = np.asarray(weights, float) / np.sum(weights)
    return {k: sum(w * a[k] for w, a in zip(p, adapters, strict=True)) for k in START}


def product(adapter, module):
    return adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]


def assert_close(ours, expected, tolerance=1e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(
            ours[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


CLIENTS = [client(1, 2), client(2, 6), client(3, 4), client(4, 2)]
WEIGHTS = [1.0, 2.0, 0.5, 3.0]


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


SIX = [client(i, RANK) for i in range(6)]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_a_weight_is_capped_by_the_cohorts_median(name, exact):
    """Wherever the client is in the cohort, also with the exact residual."""
    if exact and not AGGREGATIONS[name].averages:
        return
    for place in (0, 3, 5):
        weights = [1.0, 2.0, 3.0, 4.0, 5.0]
        weights.insert(place, 1e8)
        capped = list(weights)
        capped[place] = 10 * float(np.median(weights))
        ours, merged = aggregate(name, SIX, weights, exact, ratio=10.0)
        # It waits for the median of all, and is added last.
        order = [i for i in range(6) if i != place] + [place]
        theirs, expected = aggregate(
            name, [SIX[i] for i in order], [capped[i] for i in order], exact
        )
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
        for key in merged:
            np.testing.assert_array_equal(merged[key], expected[key])


def test_fewer_than_five_weights_are_not_capped():
    weights = [1.0, 1.0, 1e8, 1.0]
    ours, _ = aggregate("zero-padding", SIX[:4], weights, ratio=10.0)
    theirs, _ = aggregate("zero-padding", SIX[:4], weights)
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_a_huge_frobenius_weight_is_capped():
    clients = [client(i, RANK) for i in range(6)]
    for module in SIZES:
        clients[1][f"{module}.lora_B.weight"] *= 1e12
    norms = [
        np.sqrt(sum(np.linalg.norm(product(c, m)) ** 2 for m in SIZES)) for c in clients
    ]
    norms[1] = 10**2 * np.median(norms)
    ours, _ = aggregate("frobenius", clients, ratio=10.0)
    expected = average([pad(c) for c in clients], norms)
    head = "classifier.weight"
    np.testing.assert_allclose(ours[head], expected[head], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_a_cap_counts_the_contributions_that_wait(name):
    rule = aggregator(name, weight_ratio=10.0)(LAYOUT, LAYOUT.flatten(START))
    for count in range(8):
        assert rule.count == count
        rule.add(Contribution(top_k(LAYOUT.flatten(SIX[0]), 1.0), RANK))


def test_svd_of_what_is_not_finite_is_not_finite():
    """An SVD of NaN would raise; the step refuses the aggregate instead."""
    huge = np.full(LAYOUT.size, 3e38, np.float32)
    rule = aggregator("svd")(LAYOUT, huge)
    with np.errstate(over="ignore"):
        rule.add(Contribution(top_k(huge, 1.0), RANK))
        assert not np.isfinite(rule.result().update).any()


def test_the_exact_residual_copies_nothing_where_nothing_is_merged():
    """Its memory does not grow with the head, which it leaves to the inner rule."""
    head = 1_000_000
    arrays = {**START, "classifier.weight": np.zeros(head, np.float32)}
    layout = Layout.of(arrays)
    vector = layout.flatten(arrays)
    averaged = Aggregate(np.zeros(layout.size, np.float32))

    class Inner:
        count = 0

        def add(self, contribution):
            self.count += 1

        def result(self):
            return averaged

    update = top_k(np.ones(layout.size, np.float32), 1.0)
    components(layout)  # computed once for each layout
    tracemalloc.start()
    rule = ExactResidual(Inner(), layout, vector)
    for _ in range(3):
        rule.add(Contribution(update, RANK))
    result = rule.result()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.update is averaged.update
    assert peak < head / 4
    assert set(result.terms) == set(SIZES)


def mean_product(clients, weights, module):
    p = np.asarray(weights) / np.sum(weights)
    products = [product(c, module) for c in clients]
    return sum(w * x for w, x in zip(p, products, strict=True))


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_exact_reproduces_the_mean_product(exact):
    """``stacking``, and averages with the exact residual."""
    for rule in AVERAGES if exact else ["stacking"]:
        weights = WEIGHTS
        ours, merged = aggregate(rule, CLIENTS, weights, exact)
        for module in SIZES:
            whole = product(ours, module) + product_of(merged, module)
            expected = mean_product(CLIENTS, weights, module)
            np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)


def test_stacking_resets_the_adapter_to_the_same_a_and_a_zero_b():
    ours, _ = aggregate("stacking", CLIENTS, WEIGHTS)
    for module in SIZES:
        np.testing.assert_allclose(ours[f"{module}.lora_B.weight"], 0, atol=1e-6)
        a = f"{module}.lora_A.weight"
        np.testing.assert_array_equal(ours[a], START[a])
    heads = [c["classifier.weight"] for c in CLIENTS]
    expected = np.average(heads, axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(ours["classifier.weight"], expected, atol=1e-5)


def test_svd_is_the_best_approximation_of_the_mean_product():
    ours, merged = aggregate("svd", CLIENTS, WEIGHTS)
    assert merged == {}
    for module in SIZES:
        u, s, vt = np.linalg.svd(mean_product(CLIENTS, WEIGHTS, module))
        best = (
            (u[:, :RANK] * s[:RANK]) @ vt[:RANK]
            if len(s) > RANK
            else u[:, : len(s)] * s @ vt[: len(s)]
        )
        np.testing.assert_allclose(product(ours, module), best, rtol=1e-5, atol=1e-5)


def test_svd_is_exact_where_the_rank_suffices():
    clients = [client(1, 2), client(2, 2), client(3, 1)]
    ours, _ = aggregate("svd", clients, [1.0, 3.0, 2.0])
    for module in SIZES:
        expected = mean_product(clients, [1.0, 3.0, 2.0], module)
        np.testing.assert_allclose(product(ours, module), expected, atol=1e-5)
        # Components that the product does not fill can still be trained.
        assert np.abs(ours[f"{module}.lora_A.weight"]).sum(1).min() > 0


def test_a_lower_rank_takes_the_largest_components_of_svd():
    ours, _ = aggregate("svd", CLIENTS)
    b, a = ours["one.lora_B.weight"][:, :2], ours["one.lora_A.weight"][:2]
    u, s, vt = np.linalg.svd(mean_product(CLIENTS, [1.0] * 4, "one"))
    np.testing.assert_allclose(b @ a, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)


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


def test_factors_norms_and_dead_modules():
    rng = np.random.default_rng(5)
    b, a = rng.standard_normal((7, 4)), rng.standard_normal((4, 11))
    best_b, best_a = truncated_svd(b, a, 9)
    assert best_b.shape == (7, 4) and best_a.shape == (4, 11)
    np.testing.assert_allclose(best_b @ best_a, b @ a, atol=1e-12)
    np.testing.assert_allclose(best_a @ best_a.T, np.eye(4), atol=1e-12)
    vector = LAYOUT.flatten(START)
    expected = sum(np.linalg.norm(product(START, m)) ** 2 for m in SIZES)
    assert product_norm(LAYOUT, vector) == pytest.approx(np.sqrt(expected), rel=1e-6)
    assert [m.name for m in lora_modules(LAYOUT)] == ["one", "two"]
    assert dead_modules(LAYOUT, vector) == 0
    for m in lora_modules(LAYOUT)[:1]:
        vector[m.a_place] = 0
        assert dead_modules(LAYOUT, vector) == 0
        vector[m.b_place] = 0
    assert dead_modules(LAYOUT, vector) == 1


def test_a_factor_without_its_partner_is_refused():
    layout = Layout.of({"x.lora_A.weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"'x\.lora_A\.weight' has no B"):
        lora_modules(layout)


def test_merging_adds_up_and_takes_the_smaller_form():
    rng = np.random.default_rng(2)
    terms = [
        {"m": (rng.standard_normal((20, r)), rng.standard_normal((r, 30)))}
        for r in (3, 4, 9)
    ]
    merged, total = {}, np.zeros((20, 30))
    for term in terms:
        merged = merge(merged, term)
        total += term["m"][0] @ term["m"][1]
        np.testing.assert_allclose(product_of(merged, "m"), total, atol=1e-4)
        # 7 (20 + 30) numbers are fewer than 20 x 30, 16 (20 + 30) are not.
        assert sum(v.size for v in merged.values()) <= 600
    assert list(merged) == ["m.merged"]

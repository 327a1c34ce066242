"""Rules that replace the factors, against transcriptions of the papers' formulas."""

import tracemalloc

import numpy as np
import pytest

from flasc_flwr.core.aggregation import AGGREGATIONS, Contribution, Tuning, aggregator
from flasc_flwr.core.factors import ridge_inverse, truncated_svd
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.sparsity import top_k
from tests.core.cohort import (
    CLIENTS,
    LAYOUT,
    RANK,
    SIZES,
    START,
    WEIGHTS,
    aggregate,
    client,
    pad,
    product,
)

REPLACING = [n for n, r in AGGREGATIONS.items() if not r.averages and not r.merges]
EQUAL = [client(i, RANK) for i in range(1, 5)]
EXACT = Tuning(ridge=0.0, energy=1.0)
P = np.asarray(WEIGHTS) / np.sum(WEIGHTS)


def factors(adapter, module):
    """Return B and A in float64."""
    b = adapter[f"{module}.lora_B.weight"].astype(np.float64)
    return b, adapter[f"{module}.lora_A.weight"].astype(np.float64)


def mean_product(clients, module, weights=P):
    total = 0.0
    for p, each in zip(weights, clients, strict=True):
        b, a = factors(each, module)
        total = total + p * b @ a
    return total


def errors(name, clients, **more):
    """Return the relative error of B A against the mean product, by module."""
    ours, _ = aggregate(name, clients, WEIGHTS, **more)
    wanted = {m: mean_product(clients, m) for m in SIZES}
    return {
        m: np.linalg.norm(product(ours, m) - t) / np.linalg.norm(t)
        for m, t in wanted.items()
    }


@pytest.mark.parametrize("clients", [CLIENTS, EQUAL])
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_florist_is_the_papers_thin_decomposition(clients, energy):
    """Thin SVDs of both stacks, of the small matrix between them, and a threshold."""
    ours, merged = aggregate(
        "florist", clients, WEIGHTS, tuning=Tuning(energy=energy, ridge=0.0)
    )
    assert merged == {}
    kept = {}
    for module in SIZES:
        pairs = [factors(c, module) for c in clients]
        stack_b = np.hstack([b for b, _ in pairs])
        stack_a = np.vstack([p * a for p, (_, a) in zip(P, pairs, strict=True)])
        u_b, s_b, v_b = np.linalg.svd(stack_b, full_matrices=False)
        u_a, s_a, v_a = np.linalg.svd(stack_a, full_matrices=False)
        u, s, v = np.linalg.svd(np.diag(s_b) @ v_b @ u_a @ np.diag(s_a))
        k = 1
        while sum(s[:k] ** 2) < energy * sum(s**2) * (1 - 1e-12):
            k += 1
        k = min(k, RANK)
        expected = (u_b @ u[:, :k] * s[:k]) @ (v[:k] @ v_a)
        np.testing.assert_allclose(product(ours, module), expected, atol=1e-5)
        kept[module] = np.count_nonzero(ours[f"{module}.lora_B.weight"].any(0))
        assert kept[module] <= k
        # The components left over can still be trained.
        assert ours[f"{module}.lora_A.weight"].any(1).all()
    if energy == 0.5:
        assert max(kept.values()) < 4  # the threshold decides, not the rank


@pytest.mark.parametrize("shape", [(40, 7, 30), (7, 40, 30), (9, 8, 50), (60, 50, 5)])
def test_the_thin_svd_is_that_of_the_whole_product(shape):
    n_out, n_in, rank = shape
    rng = np.random.default_rng(3)
    b, a = rng.standard_normal((n_out, rank)), rng.standard_normal((rank, n_in))
    u, s, vt = np.linalg.svd(b @ a, full_matrices=False)
    ours_b, ours_a = truncated_svd(b, a, 4)
    best = u[:, :4] * s[:4] @ vt[:4]
    np.testing.assert_allclose(ours_b @ ours_a, best, atol=1e-10 * s[0])
    np.testing.assert_allclose(ours_a @ ours_a.T, np.eye(4), atol=1e-12)


def test_the_energy_of_a_zero_product_keeps_one_component():
    b, a = truncated_svd(np.zeros((5, 3)), np.ones((3, 4)), 3, energy=0.9)
    assert b.shape == (5, 1) and a.shape == (1, 4) and not b.any()


def test_rank_partitioned_averages_each_block_over_those_who_have_it():
    """raFLoRA: sum over blocks and their owners of p_k / sum p_j times B_k A_k."""
    ours, merged = aggregate("rank-partitioned", CLIENTS, WEIGHTS)
    assert merged == {}
    ranks = [c["one.lora_A.weight"].shape[0] for c in CLIENTS]
    edges = [0, *sorted(set(ranks))]
    for module in SIZES:
        total = 0.0
        for low, high in zip(edges, edges[1:], strict=False):
            owners = [k for k, r in enumerate(ranks) if r >= high]
            for k in owners:
                b, a = factors(CLIENTS[k], module)
                share = WEIGHTS[k] / sum(WEIGHTS[j] for j in owners)
                total = total + share * b[:, low:high] @ a[low:high]
        u, s, vt = np.linalg.svd(total, full_matrices=False)
        best = u[:, :RANK] * s[:RANK] @ vt[:RANK]
        np.testing.assert_allclose(product(ours, module), best, atol=1e-5)


def test_rank_partitioned_keeps_a_lone_high_rank_clients_components():
    """Where FlexLoRA divides them by the cohort."""
    clients = [client(0, RANK)] + [client(i, 2) for i in range(1, 10)]
    for trained in clients[1:]:
        for module in SIZES:
            trained[f"{module}.lora_B.weight"][:] = 0
    clients[0] = {k: v.copy() for k, v in clients[0].items()}
    for module in SIZES:
        clients[0][f"{module}.lora_B.weight"][:, :2] = 0
    kept, _ = aggregate("rank-partitioned", clients)
    divided, _ = aggregate("svd", clients)
    for module in SIZES:
        whole = np.linalg.norm(product(clients[0], module))
        assert np.linalg.norm(product(kept, module)) == pytest.approx(whole, rel=0.05)
        ratio = np.linalg.norm(product(divided, module)) / whole
        assert ratio == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("ridge", [0.0, 0.001, 0.3])
@pytest.mark.parametrize("clients", [CLIENTS, EQUAL])
def test_fair_is_the_ridge_regression_of_the_missing_product_on_a(clients, ridge):
    ours, merged = aggregate("fair", clients, WEIGHTS, tuning=Tuning(ridge=ridge))
    assert merged == {}
    # A and B averaged over those who have each component.
    filled = [pad(c, np.nan) for c in clients]
    for module in SIZES:
        means = []
        for kind in "BA":
            stack = np.stack([c[f"{module}.lora_{kind}.weight"] for c in filled])
            w = np.reshape(WEIGHTS, (-1, 1, 1)) * ~np.isnan(stack)
            means.append(np.nansum(w * stack, 0) / w.sum(0))
        b, a = means
        target = mean_product(clients, module)
        penalty = ridge * np.mean(np.sum(a**2, axis=1))
        # min ||T - (B + dB) A||^2 + penalty ||dB||^2, row by row of dB, as an ordinary
        # least-squares problem with the penalty as more equations.
        left = np.vstack([a.T, np.sqrt(penalty) * np.eye(RANK)])
        right = np.vstack([(target - b @ a).T, np.zeros((RANK, len(b)))])
        change = np.linalg.lstsq(left, right, rcond=None)[0].T
        ours_b, ours_a = factors(ours, module)
        np.testing.assert_allclose(ours_a, a, atol=1e-5)
        np.testing.assert_allclose(ours_b @ ours_a, (b + change) @ a, atol=1e-4)
    heads = [c["classifier.weight"] for c in clients]
    expected = np.average(heads, axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(ours["classifier.weight"], expected, atol=1e-5)


def test_with_a_huge_ridge_fair_is_the_average():
    ours, _ = aggregate("fair", CLIENTS, WEIGHTS, tuning=Tuning(ridge=1e9))
    theirs, _ = aggregate("replication", CLIENTS, WEIGHTS)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


@pytest.mark.parametrize("clients", [CLIENTS, EQUAL])
@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_alternating_projects_the_missing_product_onto_one_factor(clients, turn):
    """FedSRD: ``dB = D pinv(A)``, then ``dA = pinv(B) D``."""
    ours, merged = aggregate("alternating", clients, WEIGHTS, turn=turn, tuning=EXACT)
    assert merged == {}
    for module in SIZES:
        b, a = factors(START, module)
        missing = 0.0
        for p, each in zip(P, clients, strict=True):
            b_k, a_k = factors(each, module)
            rank = len(a_k)
            missing = missing + p * (b_k @ a_k - b[:, :rank] @ a[:rank])
        if turn % 2:
            b = b + missing @ np.linalg.pinv(a)
        else:
            a = a + np.linalg.pinv(b) @ missing
        ours_b, ours_a = factors(ours, module)
        np.testing.assert_allclose(ours_b, b, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours_a, a, rtol=1e-4, atol=1e-4)


def test_alternating_moves_nothing_where_the_other_factor_is_zero():
    start = {k: np.zeros_like(v) if "lora_B" in k else v for k, v in START.items()}
    vector = LAYOUT.flatten(start)
    rule = aggregator("alternating", turn=2)(LAYOUT, vector)
    rule.add(Contribution(top_k(np.ones(LAYOUT.size, np.float32), 1.0), RANK))
    moved = LAYOUT.unflatten(rule.result().update)
    assert not moved["one.lora_A.weight"].any()
    assert not moved["one.lora_B.weight"].any()
    assert moved["classifier.weight"].all()


def test_what_replaces_the_factors_is_closer_to_the_mean_product_than_averages():
    """Over random cohorts: the SVD is the best of its rank, `fair` beats averages."""
    for seed in range(10):
        ranks = np.random.default_rng(seed).integers(1, RANK + 1, 4)
        clients = [client(100 * seed + i, r) for i, r in enumerate(ranks)]
        clients[0] = client(100 * seed, RANK)
        error = {
            name: errors(name, clients, tuning=EXACT)
            for name in ("svd", "florist", "fair", "zero-padding", "replication")
        }
        for module in SIZES:
            best = error["svd"][module]
            assert error["florist"][module] == pytest.approx(best, abs=1e-5)
            assert best <= error["fair"][module] + 1e-5
            for other in ("zero-padding", "replication"):
                assert error["fair"][module] < error[other][module]


@pytest.mark.parametrize("name", REPLACING)
def test_nothing_of_the_size_of_the_product_is_made(name):
    side, rank = 3000, 4
    arrays = {
        "x.lora_A.weight": np.ones((rank, side), np.float32),
        "x.lora_B.weight": np.ones((side, rank), np.float32),
    }
    layout = Layout.of(arrays)
    vector = layout.flatten(arrays)
    noise = np.random.default_rng(0).standard_normal(layout.size).astype(np.float32)
    update = top_k(noise, 1.0)
    tracemalloc.start()
    rule = aggregator(name)(layout, vector)
    for _ in range(4):
        rule.add(Contribution(update, rank))
    rule.result()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < side * side


@pytest.mark.parametrize("name", REPLACING)
def test_what_is_not_finite_stays_so_and_raises_nothing(name):
    huge = np.full(LAYOUT.size, 3e38, np.float32)
    rule = aggregator(name)(LAYOUT, huge)
    with np.errstate(over="ignore"):
        rule.add(Contribution(top_k(huge, 1.0), RANK))
        assert not np.isfinite(rule.result().update).any()


@pytest.mark.parametrize("name", [*REPLACING, "stacking"])
def test_a_large_weight_makes_no_infinity(name):
    """Weights are numbers of examples: sums of them are float64."""
    large = np.zeros(LAYOUT.size, np.float32)
    large[-1] = 2e38  # of the head
    rule = aggregator(name)(LAYOUT, LAYOUT.flatten(START))
    for _ in range(2):
        rule.add(Contribution(top_k(large, 1.0), RANK, 100.0))
    assert rule.result().update[-1] == np.float32(2e38)


def test_a_singular_matrix_has_the_pseudoinverse():
    gram = np.array([[4.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(ridge_inverse(gram, 0.0), np.diag([0.25, 0.0]))
    np.testing.assert_allclose(ridge_inverse(gram, 0.5), np.diag([0.2, 1.0]))
    assert not ridge_inverse(np.zeros((3, 3)), 0.5).any()


def test_numbers_of_rules_are_checked_and_chosen_by_name():
    with pytest.raises(ValueError, match=r"aggregation-energy must be .* got 0"):
        Tuning(energy=0.0)
    with pytest.raises(ValueError, match=r"aggregation-ridge must be .* got -1"):
        Tuning(ridge=-1.0)
    chosen = Tuning(energy=0.9)
    assert compose("florist", tuning=chosen).tuning == chosen
    assert compose("florist").tuning == METHODS["florist"].tuning == Tuning()
    for name in REPLACING:
        assert compose("flasc", aggregation=name).server_optimizer == "sgd"


@pytest.mark.parametrize("rule", ["svd", "florist", "rank-partitioned", "alternating"])
@pytest.mark.parametrize("name", ["ffa-lora", "rolora"])
def test_a_method_that_keeps_a_factor_has_no_rule_that_replaces_it(name, rule):
    """The step would drop one of the two new factors: B A would be no product."""
    with pytest.raises(
        ValueError, match=f"aggregation must average .*'{name}', .*got '{rule}'"
    ):
        compose(name, aggregation=rule)


def test_what_replaces_only_what_is_trained_is_allowed():
    assert compose("ffa-lora", aggregation="stacking").replaces_factors
    with pytest.raises(ValueError, match="aggregation must average .*'rolora'"):
        compose("rolora", aggregation="stacking")
    for name in ("ffa-lora", "rolora"):
        assert compose(name, aggregation="replication").aggregation == "replication"
        assert compose(name, exact_residual=True).exact_residual

"""Rules on products B A: exact against the mean product, and thin factors."""

import tracemalloc

import numpy as np
import pytest

from flasc_flwr.core.aggregation import (
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
from flasc_flwr.core.ranks import components
from flasc_flwr.core.sparsity import top_k
from tests.core.cohort import (
    AVERAGES,
    CLIENTS,
    LAYOUT,
    RANK,
    SIZES,
    START,
    WEIGHTS,
    aggregate,
    client,
    product,
)


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

"""How much a client counts: weights are capped by the cohort's median."""

import numpy as np
import pytest

from flasc_flwr.core.aggregation import (
    AGGREGATIONS,
    Contribution,
    aggregator,
)
from flasc_flwr.core.sparsity import top_k
from tests.core.cohort import (
    LAYOUT,
    RANK,
    SIZES,
    START,
    aggregate,
    average,
    client,
    pad,
    product,
)

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

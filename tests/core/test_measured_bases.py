"""Measured bases of cores: their mean product, their rounding, and their bounds."""

import numpy as np
import pytest

from flasc_flwr.core.aggregation import Contribution, aggregator
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.measured_bases import (
    basis_format,
    encode_bases,
    orthonormal,
    require_share,
    rounded,
    with_bases,
)
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.sparsity import top_k

RANK = 6
SIDES = {"tall.lora_core": (23, 9), "wide.lora_core": (8, 31)}
CORES = Layout.of(
    {name: np.zeros((RANK, RANK), np.float32) for name in SIDES}
    | {"classifier.weight": np.zeros((3, 5), np.float32)}
)
LAYOUT = with_bases(CORES, SIDES)


def measured(seed, rank=RANK):
    """Return one client's ``U S`` and ``V^T`` of a matrix of signs, by module."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, sides in SIDES.items():
        u, s, vt = np.linalg.svd(-np.sign(rng.normal(size=sides)), full_matrices=False)
        found[name] = u[:, :rank] * s[:rank], vt[:rank]
    return found


def contributed(factors, rank=RANK, weight=1.0):
    cut = truncation(LAYOUT, rank)
    arrays = {t.name: np.zeros(t.shape, np.float32) for t in cut.layout.tensors}
    for name, (b, a) in factors.items():
        module = name.removesuffix("core")
        arrays[f"{module}B.weight"], arrays[f"{module}A.weight"] = b, a
    update = cut.pad_sparse(top_k(cut.layout.flatten(arrays), 1.0))
    return Contribution(update, rank, weight)


def averaged(contributions):
    rule = aggregator("svd")(LAYOUT, np.zeros(LAYOUT.size, np.float32))
    for contribution in contributions:
        rule.add(contribution)
    return orthonormal(LAYOUT, rule.result().update)


def pair(bases, name):
    module = name.removesuffix("core")
    return bases[f"{module}B.weight"], bases[f"{module}A.weight"]


def test_bases_are_the_singular_vectors_of_the_mean_product():
    """Unequal sides, ranks and weights, against the matrices themselves."""
    clients = [(0, RANK, 1.0), (1, 4, 2.5), (2, RANK, 0.25), (3, 2, 1.5)]
    bases = averaged(contributed(measured(s, r), r, p) for s, r, p in clients)
    total = sum(p for _, _, p in clients)
    for name in SIDES:
        mean = sum(p / total * np.matmul(*measured(s, r)[name]) for s, r, p in clients)
        u, s, vt = np.linalg.svd(mean, full_matrices=False)
        assert s[RANK - 1] - s[RANK] > 0.05  # the subspaces are well defined
        b, a = pair(bases, name)
        # Signs are open: each vector is compared with itself times plus or minus one.
        np.testing.assert_allclose(np.abs(b.T @ u[:, :RANK]), np.eye(RANK), atol=1e-4)
        np.testing.assert_allclose(np.abs(a @ vt[:RANK].T), np.eye(RANK), atol=1e-4)
        np.testing.assert_allclose(np.sign(np.diag(b.T @ mean @ a.T)), 1)


def test_a_product_of_a_lower_rank_is_completed():
    """Also one without any value: a module that has no gradient."""
    factors = measured(0, 2)
    factors["wide.lora_core"] = tuple(
        np.zeros_like(f) for f in measured(0, 2)["wide.lora_core"]
    )
    bases = averaged([contributed(factors, 2)])
    for name in SIDES:
        b, a = pair(bases, name)
        np.testing.assert_allclose(b.T @ b, np.eye(RANK), atol=1e-6)
        np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-6)
    b, a = pair(bases, "tall.lora_core")
    product = np.matmul(*factors["tall.lora_core"])
    np.testing.assert_allclose(b[:, :2] @ b[:, :2].T @ product, product, atol=1e-4)


@pytest.mark.parametrize("values", ["float32", "bfloat16", "float16", "int4", "step"])
def test_a_lower_rank_has_the_same_values_after_rounding(values):
    values = basis_format(values)
    bases = rounded(averaged([contributed(measured(1))]), values)
    layout = Layout.of(bases)
    for rank in (1, 4, RANK):
        cut = truncation(layout, rank)
        part = cut.layout.unflatten(cut.truncate(layout.flatten(bases)))
        again = rounded(part, values)
        for name, array in part.items():
            np.testing.assert_array_equal(again[name], array)
    assert len(encode_bases(layout, layout.flatten(bases), values)) < 5 * layout.size


def test_a_client_has_no_more_than_its_share():
    """``||U S||`` up to sqrt(out in), which matrices of signs of full rank have."""
    require_share(LAYOUT, contributed(measured(0)).update)
    for b_times, a_times, said in (
        (2.0, 1.0, "norm of U S must be <= 15.748, got"),
        (1.0, 1.2, "length of a row of V.T must be <= 1, got 1.2"),
    ):
        factors = measured(0)
        b, a = factors["wide.lora_core"]
        factors["wide.lora_core"] = b * b_times, a * a_times
        with pytest.raises(ValueError, match=said):
            require_share(LAYOUT, contributed(factors).update)


def test_parallel_factors_have_no_more_than_their_share_either():
    """Six equal columns between six equal rows add up to sqrt(6) times the norm."""
    factors = measured(0)
    b, a = np.ones((8, RANK)), np.repeat(np.eye(31)[:1], RANK, axis=0)
    factors["wide.lora_core"] = b * np.sqrt(8 * 31) / np.linalg.norm(b), a
    with pytest.raises(ValueError, match=r"U S V\^T must be <= 15.748, got 38.5"):
        require_share(LAYOUT, contributed(factors).update)


def test_bases_take_the_place_of_cores():
    assert [t.role for t in LAYOUT.tensors] == [Role.B, Role.A] * 2 + [Role.HEAD]
    assert LAYOUT.size == RANK * (23 + 9 + 8 + 31) + 15
    for sides in ({}, SIDES | {"wide.lora_core": (5, 31)}):
        with pytest.raises(ValueError, match="sides of the module of .* must be >= 6"):
            with_bases(CORES, sides)

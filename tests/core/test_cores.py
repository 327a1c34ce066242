"""Small cores against the formulas of Fed-SB and RAVAN, written down a second time."""

import numpy as np
import pytest

from flasc_flwr.core.aggregation import Contribution, aggregator
from flasc_flwr.core.cores import as_factors, seeded_bases
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.method import Tunes
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.ranks import components, rank_of, truncation
from flasc_flwr.core.sparsity import top_k

SIDES = {"tall": (23, 9), "wide": (8, 31), "square": (12, 12)}
RANK = 8
HEADS = {"fed-sb": 1, "ravan": 4}


def layout_of(heads):
    shape = (RANK, RANK // heads)
    arrays = {f"{name}.lora_core": np.zeros(shape, np.float32) for name in SIDES}
    return Layout.of(arrays | {"classifier.weight": np.zeros((3, 5), np.float32)})


def product(bases, core):
    """Return ``sum_g B_g H_g A_g`` head by head, for a core of any number of rows."""
    b, a = bases
    size = core.shape[1]
    total = np.zeros((b.shape[0], a.shape[1]))
    for first in range(0, core.shape[0], size):
        for i in range(size):
            for j in range(size):
                column, row = b[:, first + i], a[first + j]
                total += core[first + i, j] * np.outer(column, row)
    return total


def bases_of(name, seed=0):
    return seeded_bases(name, SIDES[name], RANK, seed)


@pytest.mark.parametrize("name", SIDES)
def test_seeded_bases_are_orthonormal_across_heads(name):
    b, a = bases_of(name)
    assert (b.shape[0], a.shape[1]) == SIDES[name]
    np.testing.assert_allclose(b.T @ b, np.eye(RANK), atol=1e-12)
    np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-12)


def test_seeded_bases_are_the_same_everywhere_and_differ_by_module_and_seed():
    b, a = bases_of("tall")
    for again, first in zip(bases_of("tall"), (b, a), strict=True):
        np.testing.assert_array_equal(again, first)
    assert not np.allclose(bases_of("tall", seed=1)[0], b)
    assert not np.allclose(seeded_bases("other", SIDES["tall"], RANK, 0)[0], b)
    assert not np.allclose(b[: len(a.T)], a.T)
    # Fixed values: a device with another version of numpy draws the same.
    assert b[0, 0] == pytest.approx(-0.2265606172, abs=1e-9)
    assert a[0, 0] == pytest.approx(-0.3980563732, abs=1e-9)


@pytest.mark.parametrize("method", HEADS)
def test_the_average_of_cores_is_the_core_of_the_average_product(method):
    rng = np.random.default_rng(0)
    layout = layout_of(HEADS[method])
    start = layout.flatten({t.name: rng.normal(size=t.shape) for t in layout.tensors})
    weights = [1.0, 2.5, 0.5]
    rule = aggregator(METHODS[method].aggregation)(layout, start)
    trained = [rng.normal(size=layout.size).astype(np.float32) for _ in weights]
    for vector, weight in zip(trained, weights, strict=True):
        update = top_k(vector - start, 1.0)
        rule.add(Contribution(update, RANK, weight))
    ours = layout.unflatten(start + rule.result().update)
    for name in SIDES:
        bases = bases_of(name)
        cores = [layout.unflatten(v)[f"{name}.lora_core"] for v in trained]
        products = [product(bases, core) for core in cores]
        expected = np.average(products, axis=0, weights=weights)
        given = product(bases, ours[f"{name}.lora_core"])
        error = np.linalg.norm(given - expected) / np.linalg.norm(expected)
        assert error < 1e-6


def test_ravans_average_is_that_of_the_heads_times_their_scales():
    """``H_i <- sum_k p_k s_ki H_ki``: what a client sends is s_ki H_ki."""
    rng = np.random.default_rng(1)
    heads, size = 4, 2
    layout = layout_of(heads)
    name = "wide.lora_core"
    sent, expected = [], np.zeros((heads, size, size))
    for weight in (0.25, 0.75):
        s, h = rng.normal(size=heads), rng.normal(size=(heads, size, size))
        expected += weight * s[:, None, None] * h
        arrays = {t.name: np.zeros(t.shape) for t in layout.tensors}
        arrays[name] = (s[:, None, None] * h).reshape(RANK, size)
        sent.append((layout.flatten(arrays), weight))
    rule = aggregator("replication")(layout, np.zeros(layout.size, np.float32))
    for vector, weight in sent:
        rule.add(Contribution(top_k(vector, 1.0), RANK, weight))
    ours = layout.unflatten(rule.result().update)[name]
    np.testing.assert_allclose(ours.reshape(heads, size, size), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "rank", "shape"),
    [
        (1, 1, (1, 1)),
        (1, 5, (5, 5)),
        (1, 8, (8, 8)),
        (1, 99, (8, 8)),
        (4, 1, (1, 1)),
        (4, 2, (2, 2)),
        (4, 3, (2, 2)),
        (4, 7, (6, 2)),
        (4, 8, (8, 2)),
    ],
)
def test_a_smaller_rank_is_a_leading_block_or_fewer_heads(heads, rank, shape):
    layout = layout_of(heads)
    cut = truncation(layout, rank)
    vector = np.random.default_rng(2).normal(size=layout.size).astype(np.float32)
    whole = layout.unflatten(vector)
    part = cut.layout.unflatten(cut.truncate(vector))
    for name in (f"{module}.lora_core" for module in SIDES):
        assert part[name].shape == shape
        np.testing.assert_array_equal(part[name], whole[name][: shape[0], : shape[1]])
    np.testing.assert_array_equal(part["classifier.weight"], whole["classifier.weight"])
    assert rank_of(cut.layout) == shape[0]
    padded = cut.pad(cut.truncate(vector))
    kept = components(layout) < rank
    np.testing.assert_array_equal(padded, np.where(kept, vector, 0))


@pytest.mark.parametrize("method", HEADS)
def test_an_entry_is_averaged_over_the_clients_that_have_it(method):
    heads = HEADS[method]
    layout, rng = layout_of(heads), np.random.default_rng(3)
    ranks, weights = [2, 8, 5, 1], [1.0, 2.0, 0.5, 3.0]
    rule = aggregator(METHODS[method].aggregation)(
        layout, np.zeros(layout.size, np.float32)
    )
    size = RANK // heads
    name = "tall.lora_core"
    total, weight_of = np.zeros((RANK, size)), np.zeros((RANK, size))
    for rank, weight in zip(ranks, weights, strict=True):
        cut = truncation(layout, rank)
        update = rng.normal(size=cut.layout.size).astype(np.float32)
        rule.add(Contribution(cut.pad_sparse(top_k(update, 1.0)), rank, weight))
        block = cut.layout.unflatten(update)[name]
        rows, columns = block.shape
        total[:rows, :columns] += weight * block
        weight_of[:rows, :columns] += weight
    ours = layout.unflatten(rule.result().update)[name]
    np.testing.assert_allclose(ours, total / weight_of, rtol=1e-5)


@pytest.mark.parametrize("rows", [RANK, 4, 2])
def test_factors_have_the_product_of_the_core(rows):
    core = np.random.default_rng(4).normal(size=(rows, 2))
    b, a = bases_of("wide")
    columns, same = as_factors(b, core, a)
    assert columns.shape == b.shape and same.shape == a.shape
    np.testing.assert_allclose(columns @ same, product((b, a), core), atol=1e-12)


def test_only_stacks_of_square_heads_are_cores():
    def role(shape, name="x.lora_core"):
        return Layout.of({name: np.zeros(shape, np.float32)}).tensors[0].role

    assert role((6, 2)) == role((3, 3)) == Role.CORE
    for shape in ((5,), (2, 6), (7, 2), (0, 2), (2, 0), (2, 2, 2)):
        assert role(shape) == Role.OTHER, shape
    layout = layout_of(4)
    assert Layout.from_json(layout.to_json()) == layout
    assert {t.role for t in layout.tensors} == {Role.CORE, Role.HEAD}
    text = layout.to_json().replace("[8,2]", "[7,2]")
    with pytest.raises(ValueError, match="not a stack of square heads"):
        Layout.from_json(text)


def test_parts_that_compute_with_factors_are_refused():
    assert {n for n, m in METHODS.items() if m.tunes == Tunes.CORES} == set(HEADS)
    for parts, message in (
        ({"aggregation": "svd"}, "aggregation must average .*'ravan', .* got 'svd'"),
        ({"aggregation": "frobenius"}, "aggregation must average .*got 'frobenius'"),
        ({"exact_residual": True}, "exact-residual must be False .* got True"),
        ({"init": "shared-seed"}, "init must be 'sent' .* got 'shared-seed'"),
        ({"rank_scale": "own"}, "rank-scale must be 'common' .* got 'own'"),
        ({"score": "product"}, "score must not be 'product' .*'ravan', .*no products"),
        ({"core_heads": 0}, "core-heads must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            compose("ravan", **parts)
    assert compose("fed-sb", core_heads=3).core_heads == 3

"""The bits that the codec takes, compared with the entropy of what it codes."""

from functools import cache
from math import log2

import numpy as np
import pytest

from flasc_flwr.core.codec import VALUE_FORMATS, encode
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.formats import FORMATS
from flasc_flwr.core.codec.positions import encode_positions
from flasc_flwr.core.codec.values import encode_values
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector, top_k

from .samples import GPT2_SIZE, entropy, gpt2_at_round_0, random_sparse

DRAWS = {"gauss": "standard_normal", "laplace": "laplace"}


@cache
def largest(name: str, density: float) -> SparseVector:
    """Return the largest entries of a random vector of a distribution."""
    rng = np.random.default_rng(0)
    vector = getattr(rng, DRAWS[name])(size=GPT2_SIZE).astype(np.float32)
    return top_k(vector, density)


def position_bits(sparse: SparseVector, layout: Layout | None = None) -> float:
    """Return the bits a non-zero, block table included."""
    coded = encode_positions(
        sparse.positions, block_bounds(sparse.positions, sparse.size, layout)
    )
    return 8 * len(coded.to_bytes()) / sparse.kept


@pytest.mark.parametrize("exponent", range(1, 11))
def test_independent_positions_are_within_2_percent_of_entropy(exponent):
    density = 2.0**-exponent
    sparse = random_sparse(np.random.default_rng(exponent), GPT2_SIZE, density)
    bound = -log2(density) - (1 - density) * log2(1 - density) / density
    assert position_bits(sparse) <= 1.02 * bound


@pytest.mark.parametrize("density", [0.6, 0.75, 0.9, 0.99])
def test_a_mask_that_is_more_than_half_full_costs_as_its_holes(density):
    sparse = random_sparse(np.random.default_rng(0), GPT2_SIZE, density)
    bound = -log2(density) - (1 - density) * log2(1 - density) / density
    assert position_bits(sparse) <= 1.03 * bound


@pytest.mark.parametrize(("density", "most"), [(1 / 4, 1.9), (1 / 16, 3.2)])
def test_positions_of_gpt2_at_round_0(density, most):
    layout, vector = gpt2_at_round_0()
    assert layout.size == GPT2_SIZE
    assert position_bits(top_k(vector, density), layout) <= most


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("density", [1 / 4, 1 / 16, 1 / 64])
@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4", "float16"])
def test_values_are_near_their_entropy(name, density, form):
    sparse = largest(name, density)
    coded = FORMATS[VALUE_FORMATS.index(form)].quantize(sparse.values, None)
    streams = encode_values(coded.negative, coded.magnitudes)
    bits = 8 * (len(coded.scales) + len(streams.to_bytes())) / sparse.kept
    bound = entropy(np.bincount(2 * coded.magnitudes.astype(int) + coded.negative))
    assert bits <= 1.12 * bound


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(
    ("density", "form", "least"),
    [
        (1 / 4, "bfloat16", 10.0),
        (1 / 4, "int8", 12.5),
        (1 / 16, "bfloat16", 35.0),
        (1 / 16, "int8", 41.0),
        (1 / 64, "bfloat16", 130.0),
        (1 / 64, "int8", 140.0),
    ],
)
def test_payload_beside_dense_float32(name, density, form, least):
    payload = encode(largest(name, density), form)
    assert 4 * GPT2_SIZE / len(payload) >= least


@pytest.mark.parametrize("kept", [0, 1, 5, 100, 2000])
def test_small_payloads_have_no_tables(kept):
    rng = np.random.default_rng(0)
    positions = np.sort(rng.choice(GPT2_SIZE, kept, replace=False)).astype(np.int64)
    values = rng.standard_normal(kept).astype(np.float32)
    gap = log2(GPT2_SIZE / max(1, kept)) + 2
    payload = encode(SparseVector(GPT2_SIZE, positions, values), "bfloat16")
    assert len(payload) <= 32 + 4 * 8 + kept * (gap + 16) / 8

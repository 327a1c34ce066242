"""Sparse vectors and layouts for the tests of the codec."""

from math import sqrt

import numpy as np

from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.sparsity import SparseVector

GPT2_SIZE = 2_374_656

_GPT2_MODULES = (
    ("attn.c_attn", 768, 2304),
    ("attn.c_proj", 768, 768),
    ("mlp.c_fc", 768, 3072),
    ("mlp.c_proj", 3072, 768),
)


def sparse_of(size: int, positions: list[int], values: list[float]) -> SparseVector:
    return SparseVector(size, np.array(positions, np.int64), np.float32(values))


def random_sparse(
    rng: np.random.Generator, size: int, density: float, scale: float = 1.0
) -> SparseVector:
    """Return Gaussian values at i.i.d. positions."""
    positions = np.flatnonzero(rng.random(size) < density).astype(np.int64)
    values = rng.standard_normal(len(positions)).astype(np.float32) * np.float32(scale)
    return SparseVector(size, positions, values)


def gpt2_at_round_0(rank: int = 16, labels: int = 20) -> tuple[Layout, Vector]:
    """Return the adapter of GPT-2 small before training, as PEFT begins it.

    A is uniform within 1/sqrt(fan-in), B zero, the head normal with deviation 0.02.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in range(12):
        for module, fan_in, fan_out in _GPT2_MODULES:
            name = f"transformer.h.{layer}.{module}.lora_"
            bound = 1 / sqrt(fan_in)
            a = rng.uniform(-bound, bound, (rank, fan_in)).astype(np.float32)
            arrays[name + "A.weight"] = a
            arrays[name + "B.weight"] = np.zeros((fan_out, rank), np.float32)
    head = rng.normal(0, 0.02, (labels, 768)).astype(np.float32)
    arrays["score.weight"] = head
    layout = Layout.of(arrays)
    return layout, layout.flatten(arrays)


def entropy(counts: np.ndarray) -> float:
    """Return the entropy in bits of a distribution given by counts."""
    seen = counts[counts > 0] / counts.sum()
    return float(-seen @ np.log2(seen))

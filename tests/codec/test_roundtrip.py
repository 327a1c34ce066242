"""The law of the codec: what is decoded is what was encoded, as the format rounds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.codec import VALUE_FORMATS, decode, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector

from .samples import random_sparse, sparse_of

# Where each value counts for itself; tests/codec/test_step.py has the other.
BY_VALUE = [form for form in VALUE_FORMATS if form != "step"]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def sparse_vectors(draw, values=finite):
    size = draw(st.integers(0, 1200))
    mask = draw(arrays(np.bool_, size, elements=st.booleans(), fill=st.booleans()))
    positions = np.flatnonzero(mask).astype(np.int64)
    return SparseVector(
        size, positions, draw(arrays(np.float32, len(positions), elements=values))
    )


def comes_back(sparse: SparseVector, form: str, **options) -> np.ndarray:
    """Check the support and return the decoded values."""
    decoded = decode(encode(sparse, form, **options), sparse.size)
    assert decoded.size == sparse.size
    assert (decoded.positions == sparse.positions).all()
    assert (np.signbit(decoded.values) == np.signbit(sparse.values)).all()
    return decoded.values


@given(sparse_vectors())
def test_float32_is_exact_to_the_bit(sparse):
    values = comes_back(sparse, "float32")
    assert values.tobytes() == sparse.values.tobytes()


@given(sparse_vectors(st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bfloat16_is_the_nearest(sparse):
    torch = pytest.importorskip("torch")
    values = comes_back(sparse, "bfloat16")
    expected = torch.from_numpy(sparse.values).to(torch.bfloat16).float().numpy()
    assert values.tobytes() == expected.tobytes()


@given(sparse_vectors())
def test_float16_is_within_half_a_step(sparse):
    values = comes_back(sparse, "float16").astype(np.float64)
    exact = sparse.values.astype(np.float64)
    largest = np.abs(exact).max(initial=0.0)
    # 11 significant bits, and below 2**-29 of the largest value equal steps; of
    # values below float32's own smallest normal, its step.
    step = np.maximum(np.abs(exact) * 2.0**-11, largest * 2.0**-38)
    assert (np.abs(values - exact) <= np.maximum(step, 2.0**-149)).all()


@pytest.mark.parametrize(
    ("form", "levels", "group"), [("int8", 127, 1024), ("int4", 7, 256)]
)
@example(sparse_of(1, [0], [2.531e-42]))
@given(sparse=sparse_vectors())
def test_integers_are_within_half_a_level(form, levels, group, sparse):
    values = comes_back(sparse, form).astype(np.float64)
    exact = sparse.values.astype(np.float64)
    for start in range(0, len(exact), group):
        own = slice(start, start + group)
        level = np.abs(exact[own]).max() / levels
        # The scale is rounded, too; of tiny values, to a multiple of 2**-149.
        bound = max(level * 0.5001 + levels * 2.0**-150, 2.0**-149)
        assert (np.abs(values[own] - exact[own]) <= bound).all()


@pytest.mark.parametrize("density", [0.001, 0.02, 0.3, 0.5, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("size", [1, 255, 256, 1_200_000])
def test_every_density_and_size(density, size):
    sparse = random_sparse(np.random.default_rng(0), size, density, 1e-3)
    assert (comes_back(sparse, "float32") == sparse.values).all()


@pytest.mark.parametrize("form", BY_VALUE)
@pytest.mark.parametrize("size", [1, 255, 256, 1_200_000])
def test_every_format_and_size(form, size):
    sparse = random_sparse(np.random.default_rng(0), size, 0.3, 1e-3)
    values = comes_back(sparse, form)
    error = np.abs(values - sparse.values).max(initial=0.0)
    assert error <= {"int4": 5e-4, "int8": 3e-5}.get(form, 2e-5)


def test_rounding_again_changes_nothing():
    sparse = random_sparse(np.random.default_rng(0), 5000, 0.2)
    for form in ("float32", "bfloat16", "float16"):
        payload = encode(sparse, form)
        assert encode(decode(payload, 5000), form) == payload


@pytest.mark.parametrize("form", BY_VALUE)
def test_tiny_and_huge_values_survive(form):
    tiny = sparse_of(4, [0, 1, 3], [1e-7, -2e-7, 3e-7])
    assert np.allclose(comes_back(tiny, form), tiny.values, rtol=0.3)
    huge = sparse_of(2, [0, 1], [3.38e38, -3.38e38])
    assert np.allclose(comes_back(huge, form), huge.values, rtol=0.01)
    least = sparse_of(2, [0, 1], [1e-45, -1e-45])
    assert form == "bfloat16" or (comes_back(least, form) == least.values).all()


def test_deltas_of_1e7_keep_11_bits_beside_the_largest_weights():
    sparse = sparse_of(3, [0, 1, 2], [1.0, 1e-7, -1.2345e-7])
    values = comes_back(sparse, "float16")
    assert np.allclose(values, sparse.values, rtol=2**-11, atol=0)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_rounding_at_random_is_right_on_average_and_repeatable(form):
    rng = np.random.default_rng(0)
    sparse = random_sparse(rng, 2000, 0.5)
    draws = [comes_back(sparse, form, seed=seed) for seed in range(400)]
    level = np.abs(sparse.values).max() / {"int8": 127, "int4": 7}[form]
    # The mean of 400 draws has a deviation of at most level / 40.
    assert np.abs(np.mean(draws, axis=0) - sparse.values).max() < level / 8
    assert np.abs(np.array(draws) - sparse.values).max() <= level * 1.001
    assert encode(sparse, form, seed=1) == encode(sparse, form, seed=1)
    assert encode(sparse, form, seed=1) != encode(sparse, form, seed=2)


def test_a_layout_changes_the_blocks_only():
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {
            "a": (50, 60),
            "b": (7,),
            "c": (0, 3),
            "d": (90, 10),
        }.items()
    }
    layout = Layout.of(arrays)
    vector = layout.flatten(arrays)
    vector[:3000] = 0
    positions = np.flatnonzero(vector).astype(np.int64)
    sparse = SparseVector(layout.size, positions, vector[positions])
    payload = encode(sparse, layout=layout)
    decoded = decode(payload, layout.size, fingerprint=layout.fingerprint)
    assert decoded.densify().tobytes() == vector.tobytes()
    assert len(payload) < len(encode(sparse))

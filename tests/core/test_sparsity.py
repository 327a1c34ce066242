import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.sparsity import DENSITY, SparseVector, top_k

vectors = arrays(
    np.float32,
    st.integers(0, 300),
    # Few distinct magnitudes make many ties.
    elements=st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, 3e38]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)


def check_against_a_sort(vector, density):
    """Compare with sorting everything by magnitude, descending, then by position."""
    k = max(1, math.floor(len(vector) * density))
    order = np.lexsort((np.arange(len(vector)), -np.abs(vector.astype(np.float64))))
    largest = np.sort(order[:k])
    sparse = top_k(vector, density)
    assert sparse.positions.tolist() == largest[vector[largest] != 0].tolist()
    assert sparse.values.tobytes() == vector[sparse.positions].tobytes()


@settings(deadline=None)
@given(vectors, st.floats(0, 1, exclude_min=True))
def test_top_k_equals_a_sort(vector, density):
    check_against_a_sort(vector, density)


@pytest.mark.parametrize("density", [1.0, 0.25, 1 / 64, 1e-6])
@pytest.mark.parametrize("size", [131_072, 400_001])
@pytest.mark.parametrize("kind", ["gauss", "ties", "zeros", "sorted", "periodic"])
def test_top_k_of_long_vectors_equals_a_sort(kind, size, density):
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    match kind:
        case "ties":
            vector = np.round(vector * 2) / 2
        case "zeros":
            vector[: size * 9 // 10] = 0
        case "sorted":
            vector = np.sort(vector)
        case "periodic":
            # The worst case for a strided sample: it sees only the small ones.
            vector[::127] *= np.float32(1e-6)
    check_against_a_sort(vector, density)


@given(vectors)
def test_density_one_keeps_the_vector(vector):
    np.testing.assert_array_equal(top_k(vector, 1).densify(), vector)


def test_k_is_the_floor_and_at_least_one():
    vector = np.arange(1, 11, dtype=np.float32)
    assert top_k(vector, 0.39).kept == 3
    assert top_k(vector, 0.01).kept == 1


def test_ties_go_to_the_lower_position():
    vector = np.array([1, -1, 1, -1], np.float32)
    assert top_k(vector, 0.5).positions.tolist() == [0, 1]


def test_zeros_are_never_kept():
    vector = np.array([0, 0, 3, 0], np.float32)
    assert top_k(vector, 1).positions.tolist() == [2]
    assert top_k(np.zeros(4, np.float32), 0.5).kept == 0


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("size", "density"), [(10, 0.1), (10, 1.0), (300_000, 1e-5)])
def test_what_is_not_finite_is_refused_with_its_first_position(bad, size, density):
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    vector[[3, size - 1]] = bad
    with pytest.raises(ValueError, match=f"{vector[3]} at position 3:"):
        top_k(vector, density)


@pytest.mark.parametrize("bad", [0, -0.5, 1.5, math.nan, math.inf, "abc", None, True])
def test_densities_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"upload-density must be .* in \(0, 1\]"):
        DENSITY.require("upload-density", bad)
    with pytest.raises(ValueError, match="density must be"):
        top_k(np.ones(3, np.float32), bad)


def sparse(size, positions, values):
    return SparseVector(
        size, np.array(positions, np.int64), np.array(values, np.float32)
    )


def test_densify_puts_values_in_their_places():
    assert sparse(4, [1, 3], [5, 6]).densify().tolist() == [0, 5, 0, 6]


@pytest.mark.parametrize(
    ("size", "positions", "values", "message"),
    [
        (4, [1, 1], [1, 1], "strictly ascending"),
        (4, [2, 1], [1, 1], "strictly ascending"),
        (4, [1, 4], [1, 1], "outside 0..3"),
        (4, [-1, 1], [1, 1], "outside 0..3"),
        (4, [1], [1, 1], "one length"),
    ],
)
def test_parts_that_do_not_fit_are_refused(size, positions, values, message):
    with pytest.raises(ValueError, match=message):
        sparse(size, positions, values)

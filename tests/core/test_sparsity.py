import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.sparsity import DENSITY, SparseVector, top_k

vectors = arrays(
    np.float32,
    st.integers(1, 200),
    # Few distinct magnitudes make many ties.
    elements=st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-40]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)
densities = st.floats(0, 1, exclude_min=True)


def plain_top_k(vector, density):
    """Sort everything: by magnitude downwards, then by position."""
    k = max(1, math.floor(len(vector) * density))
    order = sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))
    return sorted(i for i in order[:k] if vector[i] != 0)


@given(vectors, densities)
def test_top_k_equals_a_plain_sort(vector, density):
    sparse = top_k(vector, density)
    assert sparse.positions.tolist() == plain_top_k(vector, density)
    np.testing.assert_array_equal(sparse.values, vector[sparse.positions])


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_what_is_not_finite_is_refused_with_its_position(bad, density):
    vector = np.ones(10, np.float32)
    vector[7] = bad
    with pytest.raises(ValueError, match=f"{vector[7]} at position 7"):
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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flasc_flwr.core.sparsity import top_k


def plain_top_k(vector: np.ndarray, density: float) -> np.ndarray:
    """Return the positions kept, by sorting everything."""
    kept = min(len(vector), max(1, int(len(vector) * density)))
    order = np.lexsort((np.arange(len(vector)), -np.abs(vector.astype(np.float64))))
    largest = np.sort(order[:kept])
    return largest[vector[largest] != 0]


def check(vector: np.ndarray, density: float) -> None:
    sparse = top_k(vector, density)
    assert sparse.positions.tolist() == plain_top_k(vector, density).tolist()
    assert sparse.values.tobytes() == vector[sparse.positions].tobytes()


@given(
    arrays(
        np.float32,
        st.integers(0, 300),
        elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, 3e38, 0.3]),
        fill=st.nothing(),
    ),
    st.floats(1e-3, 1.0),
)
def test_few_distinct_magnitudes(vector, density):
    check(vector, density)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.25, 1 / 16, 1 / 64, 1 / 1024, 1e-6])
@pytest.mark.parametrize("size", [131_072, 400_001])
@pytest.mark.parametrize("kind", ["gauss", "ties", "zeros", "sorted", "periodic"])
def test_long_vectors(kind, size, density):
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    match kind:
        case "ties":
            vector = np.round(vector * 2) / 2
        case "zeros":
            vector[: size * 9 // 10] = 0
        case "sorted":
            vector = np.sort(vector)
        case "periodic":
            # As bad for a strided sample as can be: it sees the small ones alone.
            vector[::127] *= np.float32(1e-6)
    check(vector, density)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("density", [1.0, 0.25, 1e-5])
def test_nan_and_infinity_are_named_with_the_first_position(value, size, density):
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    vector[[3, size - 1]] = value
    with pytest.raises(ValueError, match="at position 3:"):
        top_k(vector, density)

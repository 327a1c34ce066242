"""Memory of encoding every entry, as a server does for the first download of a run.

Peaks are multiples of 4 N bytes, the vector in float32; what is selected takes 3 more:
positions of 8 bytes and values of 4.
"""

import tracemalloc

import numpy as np
import pytest

from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k

SIZE = 1 << 22
"""Several times the runs in which temporaries are computed."""


@pytest.fixture(scope="module")
def vector():
    return np.random.default_rng(0).standard_normal(SIZE, np.float32)


def peak_of(function, *arguments, **options):
    """Return the most memory that a call takes, its result included."""
    tracemalloc.start()
    function(*arguments, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / (4 * SIZE)


def test_selecting_every_entry_takes_little_beside_the_result(vector):
    assert peak_of(top_k, vector, 1.0) < 3.75


@pytest.mark.parametrize(
    ("values", "most"),
    [("float32", 4.75), ("bfloat16", 2.75), ("int8", 2.5), ("int4", 2.5)],
)
def test_encoding_every_entry_takes_a_few_copies_of_the_vector(vector, values, most):
    layout = Layout.of({"w": vector})
    assert peak_of(encode, top_k(vector, 1.0), values, layout=layout) < most

"""Memory of coding every entry, as a server does for the first download of a run.

Peaks are multiples of 4 N bytes, the vector in float32. What is selected takes 3: 8
bytes for a position and 4 for a value.
"""

import numpy as np
import pytest

from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from tests.peak import peak_of

SIZE = 1 << 22
"""Several times the runs in which temporaries are computed."""

VECTOR_BYTES = 4 * SIZE


@pytest.fixture(scope="module")
def vector():
    return np.random.default_rng(0).standard_normal(SIZE, np.float32)


@pytest.fixture(scope="module")
def layout(vector):
    return Layout.of({"w": vector})


def test_selecting_every_entry_takes_little_beside_the_result(vector):
    assert peak_of(top_k, vector, 1.0) < 3.75 * VECTOR_BYTES


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ("float32", 4.75),
        ("bfloat16", 2.75),
        ("float16", 2.75),
        ("int8", 2.5),
        ("int4", 2.5),
        ("step", 9.75),
    ],
)
def test_encoding_every_entry_takes_a_few_copies(vector, layout, values, most):
    sparse = top_k(vector, 1.0)
    assert peak_of(encode, sparse, values, layout=layout) < most * VECTOR_BYTES


def test_factors_in_the_format_step_take_less_than_a_single_row(vector):
    zero = np.zeros((), np.float32)
    shapes = [(16, SIZE // 64), (SIZE // 64, 16)] * 2
    layout = Layout.of({str(i): np.broadcast_to(zero, s) for i, s in enumerate(shapes)})
    sparse = top_k(vector, 1 / 4)
    assert peak_of(encode, sparse, "step", layout=layout) < 2.5 * VECTOR_BYTES


@pytest.mark.parametrize(
    ("values", "most"),
    [("bfloat16", 4.75), ("float16", 4.75), ("int4", 4.75), ("step", 5.25)],
)
def test_decoding_every_entry_takes_few_copies(vector, layout, values, most):
    payload = encode(top_k(vector, 1.0), values, layout=layout)
    assert peak_of(decode, payload, SIZE) < most * VECTOR_BYTES

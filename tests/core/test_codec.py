import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.codec import PayloadError, decode, encode, read_layout
from flasc_flwr.layout import Layout
from flasc_flwr.sparsity import top_k

LAYOUT = Layout.of({"lora_A": np.zeros((4, 8)), "lora_B": np.zeros((9, 4))})


def sample(density=0.3):
    rng = np.random.default_rng(4)
    return top_k(rng.standard_normal(LAYOUT.size).astype(np.float32), density)


@given(st.integers(1, 100), st.floats(0.01, 1), st.integers(0, 99))
def test_float32_comes_back_exactly(size, density, seed):
    vector = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    sparse = top_k(vector, density)
    back = decode(encode(sparse), size=size)
    np.testing.assert_array_equal(back.positions, sparse.positions)
    np.testing.assert_array_equal(back.values, sparse.values)


def test_a_carried_layout_comes_back():
    payload = encode(sample(), layout=LAYOUT, carry_layout=True)
    assert read_layout(payload) == LAYOUT
    with pytest.raises(PayloadError, match="no layout"):
        read_layout(encode(sample(), layout=LAYOUT))


def test_another_layout_or_size_is_refused():
    payload = encode(sample(), layout=LAYOUT)
    with pytest.raises(PayloadError, match="layout"):
        decode(payload, size=LAYOUT.size, fingerprint=bytes(8))
    with pytest.raises(PayloadError, match="size"):
        decode(payload, size=LAYOUT.size + 1)


def test_every_single_flipped_bit_is_noticed():
    payload = encode(sample(), "bfloat16", layout=LAYOUT, carry_layout=True)
    for i in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[i // 8] ^= 1 << i % 8
        with pytest.raises(PayloadError):
            decode(bytes(flipped), size=LAYOUT.size)


def test_every_truncation_is_noticed():
    payload = encode(sample())
    for length in range(len(payload)):
        with pytest.raises(PayloadError):
            decode(payload[:length], size=LAYOUT.size)
    with pytest.raises(PayloadError):
        decode(payload + b"\0", size=LAYOUT.size)


def test_an_unknown_value_format_is_refused():
    with pytest.raises(ValueError, match="'float8', allowed are float32"):
        encode(sample(), "float8")

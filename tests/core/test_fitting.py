"""The search for the largest payload within a number of bytes."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec import VALUE_FORMATS, decode, encode, refines
from flasc_flwr.core.fitting import TooFewBytesError, fit
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.sparsity import SparseVector, top_k

SHAPES = {
    "q.lora_A.weight": (8, 700),
    "q.lora_B.weight": (300, 8),
    "v.lora_A.weight": (8, 500),
    "v.lora_B.weight": (100, 8),
    "classifier.weight": (5, 40),
}
LAYOUT = Layout.of({n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
N = LAYOUT.size
SCORINGS = {
    "magnitude": Scoring(),
    "fan-in": Scoring(score="fan-in"),
    "quota": Scoring(quota="tensor"),
    "whole head": Scoring(whole_head=True),
}


def vector(seed=0, size=N):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) ** 3).astype(np.float32)


def fitted(vector, most, *, density=1.0, values="bfloat16", scoring=None):
    """Return what fits, and how many payloads were encoded."""
    encoded = []

    def encoding(sparse, room=0):
        encoded.append(sparse.kept)
        return encode(sparse, values, layout=LAYOUT, room=room)

    select = partial((scoring or Scoring()).largest, LAYOUT, vector)
    made = fit(
        select,
        encoding,
        size=N,
        density=density,
        most=most,
        key="upload-bytes",
        refine=partial(encoding, room=most) if refines(values) else None,
    )
    return made, encoded


@pytest.mark.parametrize("values", VALUE_FORMATS)
@pytest.mark.parametrize("scoring", SCORINGS)
def test_the_bytes_are_never_exceeded_and_used(values, scoring):
    for most in (1000, 1500, 4000):
        made, encoded = fitted(vector(), most, values=values, scoring=SCORINGS[scoring])
        assert 0.97 * most <= len(made.payload) <= most
        assert len(encoded) < 30
        decoded = decode(made.payload, N)
        # The format step leaves out what it rounds to zero.
        sent = decoded.positions
        if values != "step":
            assert len(sent) == made.sparse.kept
        assert np.isin(sent, made.sparse.positions).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 20),
    st.floats(0.001, 1),
    st.integers(100, 40_000),
    st.sampled_from(VALUE_FORMATS),
    st.sampled_from(sorted(SCORINGS)),
    st.sampled_from([0.0, 0.5, 0.99]),
)
def test_what_fits_is_within_both_limits(seed, density, most, values, name, zeros):
    """Either the density is used, or the bytes are; nothing above either is sent."""
    entries = vector(seed % 50)
    entries[: int(zeros * N)] = 0
    scoring = SCORINGS[name]
    widest = scoring.largest(LAYOUT, entries, density)
    try:
        made, _ = fitted(entries, most, density=density, values=values, scoring=scoring)
    except TooFewBytesError as error:
        least = scoring.largest(LAYOUT, entries, min(1.5 / N, density))
        assert most < len(encode(least, values, layout=LAYOUT))
        assert f"got {most}" in str(error)
        return
    assert len(made.payload) <= most
    assert made.density <= density
    assert np.isin(made.sparse.positions, widest.positions).all()
    if made.sparse.kept < widest.kept:
        # Blocks and tables are larger steps in a small payload.
        assert len(made.payload) >= 0.97 * most - 24


@pytest.mark.parametrize("most", [120, 500, 3000, 20_000])
def test_top_k_that_fits_is_top_k(most):
    made, _ = fitted(vector(), most)
    plain = top_k(vector(), made.density)
    assert made.payload == encode(plain, "bfloat16", layout=LAYOUT)


def test_without_a_limit_or_within_it_one_payload_is_encoded():
    plain = encode(top_k(vector(), 0.25), "bfloat16", layout=LAYOUT)
    for most in (0, 1 << 62, 10**400):
        made, encoded = fitted(vector(), most, density=0.25)
        assert made.payload == plain
        assert made.density == 0.25
        assert len(encoded) == 1


def test_an_exact_limit_is_reached():
    plain = encode(top_k(vector(), 0.25), "bfloat16", layout=LAYOUT)
    made, _ = fitted(vector(), len(plain), density=0.25)
    assert made.payload == plain


def test_the_same_input_gives_the_same_bytes():
    payloads = {
        fitted(vector(), 3000, scoring=SCORINGS["quota"])[0].payload for _ in range(3)
    }
    assert len(payloads) == 1


def test_few_payloads_are_encoded():
    counts = [
        len(fitted(vector(seed), most, values=values)[1])
        for seed in range(5)
        for most in (300, 1000, 4000, 9000)
        for values in ("bfloat16", "int4")
    ]
    assert np.mean(counts) < 8


def test_too_few_bytes_are_an_error_with_the_fewest():
    one = len(encode(top_k(vector(), 1.5 / N), "bfloat16", layout=LAYOUT))
    with pytest.raises(
        TooFewBytesError, match=rf"^upload-bytes must be >= {one} for .*, got 20$"
    ):
        fitted(vector(), 20)
    made, _ = fitted(vector(), one)
    assert made.sparse.kept >= 1


def test_a_vector_of_zeros_is_an_empty_payload():
    made, _ = fitted(np.zeros(N, np.float32), 100)
    assert made.sparse.kept == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_tiny_vectors(size):
    values = vector(size=size)
    made = fit(
        lambda d: top_k(values, d),
        encode,
        size=size,
        density=1.0,
        most=200,
        key="upload-bytes",
    )
    assert made.sparse.kept == size


def test_a_cost_that_jumps_is_searched_to_its_end():
    """A codec may change its mind: the length need not grow evenly, or at all."""
    dense = vector()

    def jumping(sparse: SparseVector) -> bytes:
        k = sparse.kept
        return bytes(50 + 2 * k + (700 if k > 1000 else 0) - (90 if k % 7 == 3 else 0))

    made = fit(
        lambda d: top_k(dense, d),
        jumping,
        size=N,
        density=1.0,
        most=2500,
        key="upload-bytes",
    )
    assert made.sparse.kept == 1000


def test_what_fits_beyond_a_bump_is_found():
    dense = vector()

    def bumpy(sparse: SparseVector) -> bytes:
        k = sparse.kept
        return bytes(50 + 2 * k + (400 if 1000 <= k <= 1010 else 0))

    def best(most):
        return fit(
            lambda d: top_k(dense, d),
            bumpy,
            size=N,
            density=1.0,
            most=most,
            key="upload-bytes",
        )

    for most in range(2060, 2500, 20):
        assert 0.97 * most <= len(best(most).payload) <= most


def test_quotas_are_filled_up_with_the_largest_of_the_next_step():
    """One step of the density adds an entry to many tensors at once."""
    layout = Layout.of({f"{i}": np.zeros((10, 10), np.float32) for i in range(40)})
    dense = vector(size=layout.size)
    scoring = Scoring(quota="tensor")
    made = fit(
        partial(scoring.largest, layout, dense),
        lambda sparse: encode(sparse, "float32", layout=layout),
        size=layout.size,
        density=1.0,
        most=700,
        key="upload-bytes",
    )
    assert 0.97 * 700 <= len(made.payload) <= 700
    counts = layout.counts(made.sparse.positions)
    assert counts.max() - counts.min() == 1


def test_entries_that_take_no_bytes_are_searched_quickly():
    """An update of zeros was once tried with one entry more at a time."""
    zeros = np.zeros(20_000, np.float32)
    tried = []

    def encoded(sparse):
        tried.append(encode(sparse, "int4"))
        return tried[-1]

    most = len(encode(top_k(zeros, 1.0), "int4")) + 2
    fitted = fit(
        partial(top_k, zeros),
        encoded,
        size=len(zeros),
        density=1.0,
        most=most,
        key="upload-bytes",
    )
    assert len(fitted.payload) <= most
    assert len(tried) <= 25

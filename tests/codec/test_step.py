"""The value format ``step``: what it keeps, how near it comes, and its bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec.bits import Reader
from flasc_flwr.core.codec.step import body
from flasc_flwr.core.codec.step.body import decode_body, encode_body
from flasc_flwr.core.codec.step.quantizer import HIGHEST_LEVEL, quantize
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector, top_k
from tests.codec.positions_reference import Bits, block_table
from tests.codec.step_reference import decode_step


def layout_of(*shapes):
    return Layout.of(
        {str(i): np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    )


def update_like(layout, seed=0):
    """Return a vector with the structure of updates: rows and columns of all sizes."""
    rng = np.random.default_rng(seed)
    parts = []
    for tensor in layout.tensors:
        matrix = rng.standard_normal(tensor.shape)
        for axis in range(matrix.ndim):
            shape = [1] * matrix.ndim
            shape[axis] = -1
            size = matrix.shape[axis]
            matrix *= np.exp(rng.standard_normal(size)).reshape(shape)
        parts.append(matrix.ravel() * np.exp(rng.standard_normal()))
    return np.concatenate(parts).astype(np.float32)


LORA = layout_of((4, 40), (30, 4), (4, 24), (24, 4), (7, 40), (7,))


@pytest.fixture(autouse=True, scope="module")
def by_context_wherever_it_is_possible():
    """Vectors here are so short that most would be shorter by block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "_FEWEST_BY_CONTEXT", 0)
        patch.setattr(body, "_MOST_BOTH_WAYS", 0)
        yield


def coding_of(coded):
    """Return how levels are coded: 0 by block, 1 by context."""
    return coded[7]


def decoded(payload, size):
    reader = Reader(payload)
    sparse = decode_body(reader, size)
    reader.finish("body")
    return sparse


@pytest.mark.parametrize("density", [1, 1 / 2, 1 / 4, 1 / 16, 1 / 64])
def test_a_plain_transcription_of_the_page_decodes_the_same(density):
    vector = update_like(LORA)
    coded = encode_body(top_k(vector, density), LORA)
    expected = decode_step(coded, LORA.size)
    np.testing.assert_array_equal(decoded(coded, LORA.size).densify(), expected)


def test_the_transcription_decodes_blocks_of_every_kind(monkeypatch):
    monkeypatch.setattr(body, "_MOST_BY_CONTEXT", 0)
    rng = np.random.default_rng(0)
    shares = np.repeat([0, 1, 0.5, 0.05, 0.95], 400)
    vector = np.where(rng.random(2000) < shares, 1 + rng.exponential(1, 2000), 0)
    sparse = SparseVector.of_dense(vector.astype(np.float32))
    coded = encode_body(sparse, layout_of(*[(400,)] * 5))
    kinds = {block[0] for block in block_table(Bits(coded[8:]), 2000)}
    assert kinds == {0, 1, 2, 3, 4}
    expected = decode_step(coded, 2000)
    np.testing.assert_array_equal(decoded(coded, 2000).densify(), expected)


@given(
    shapes=st.lists(
        st.lists(st.integers(0, 9), max_size=3).map(tuple), min_size=1, max_size=5
    ),
    seed=st.integers(0, 2**32),
    density=st.floats(1e-3, 1),
    spread=st.sampled_from([0.0, 1.0, 20.0]),
)
def test_any_layout_comes_back_as_the_transcription_says(shapes, seed, density, spread):
    layout = layout_of(*shapes)
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(layout.size).astype(np.float32)
    vector *= np.exp(spread * rng.standard_normal(layout.size)).astype(np.float32)
    sparse = top_k(vector, density)
    coded = encode_body(sparse, layout)
    back = decoded(coded, layout.size)
    np.testing.assert_array_equal(back.densify(), decode_step(coded, layout.size))
    assert np.isin(back.positions, sparse.positions).all()


@pytest.mark.parametrize("limit", [0, 1 << 22], ids=["by block", "by context"])
def test_both_codings_give_the_same_values(limit, monkeypatch):
    vector = update_like(LORA)
    sparse = top_k(vector, 1 / 4)
    other = decoded(encode_body(sparse, LORA), LORA.size)
    monkeypatch.setattr(body, "_MOST_BY_CONTEXT", limit)
    coded = encode_body(sparse, LORA)
    assert coding_of(coded) == bool(limit)
    one = decoded(coded, LORA.size)
    np.testing.assert_array_equal(one.densify(), other.densify())


@pytest.mark.parametrize("seed", [None, 3], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("density", [1, 1 / 3])
def test_runs_give_the_same_bytes_and_values_as_everything_at_once(
    density, seed, monkeypatch
):
    """Temporaries are computed for runs of entries; here for 64 instead of 262,144."""
    layouts = [LORA, layout_of((7, 500)), layout_of((900,), (3, 50), (50, 3), (40, 40))]
    whole = []
    for run in (1 << 18, 64):
        monkeypatch.setattr("flasc_flwr.core.layout._CHUNK", run)
        for number, layout in enumerate(layouts):
            sparse = top_k(update_like(layout, number), density)
            coded = encode_body(sparse, layout, seed)
            back = decoded(coded, layout.size)
            made = coded, back.positions.tobytes(), back.values.tobytes()
            if run > layout.size:
                whole.append(made)
            else:
                assert made == whole[number]


def test_few_entries_have_the_shorter_coding(monkeypatch):
    structured = layout_of((8, 300), (300, 8))
    vector = update_like(structured, 3)
    lengths = {}
    for density in (1 / 300, 1 / 100, 1 / 4):
        sparse = top_k(vector, density)
        monkeypatch.undo()
        contexts = encode_body(sparse, structured)
        monkeypatch.setattr(body, "_MOST_BY_CONTEXT", 0)
        blocks = encode_body(sparse, structured)
        monkeypatch.undo()
        monkeypatch.setattr(body, "_FEWEST_BY_CONTEXT", 17)
        monkeypatch.setattr(body, "_MOST_BOTH_WAYS", 1 << 12)
        coded = encode_body(sparse, structured)
        expected = blocks if sparse.kept < 17 else min(contexts, blocks, key=len)
        assert coded == expected
        lengths[density] = coding_of(coded)
    assert lengths[1 / 300] == 0 and lengths[1 / 4] == 1


def test_what_top_k_keeps_is_kept_and_half_a_step_near():
    vector = update_like(LORA)
    sparse = top_k(vector, 1 / 8)
    rounded = quantize(sparse)
    np.testing.assert_array_equal(rounded.positions, sparse.positions)
    levels = np.maximum(np.rint(np.abs(sparse.values) / rounded.step), 1)
    np.testing.assert_array_equal(rounded.levels, levels)
    error = np.abs(rounded.levels * rounded.step - np.abs(sparse.values))
    assert (error <= 0.5 * rounded.step * (1 + 1e-6)).all()


def test_centres_are_the_means_of_the_first_levels():
    vector = update_like(LORA)
    sparse = top_k(vector, 1 / 4)
    rounded = quantize(sparse)
    back = np.abs(rounded.values())
    for level in (1, 2, 3):
        own = rounded.levels == level
        mean = np.abs(sparse.values[own]).mean()
        assert abs(back[own][0] - mean) <= rounded.step / 256


def test_at_density_1_the_error_is_about_a_hundredth():
    vector = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    back = decoded(encode_body(top_k(vector, 1), None), 20_000).densify()
    error = np.square(vector - back).sum() / np.square(vector).sum()
    assert 0.008 < error < 0.012


def test_rounding_by_a_seed_has_the_right_mean():
    vector = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    sparse = top_k(vector, 1 / 4)
    total = np.zeros(500)
    for seed in range(400):
        rounded = quantize(sparse, seed)
        total[rounded.positions] += rounded.values()
    mean = total[sparse.positions] / 400
    step = quantize(sparse).step
    # A step's uniform error has a deviation of at most half a step.
    assert np.abs(mean - sparse.values).max() < 4 * step / 2 / 400**0.5
    again = encode_body(sparse, None, seed=3)
    assert again == encode_body(sparse, None, seed=3)
    assert again != encode_body(sparse, None, seed=4)


@pytest.mark.parametrize(
    "values",
    [
        [np.finfo(np.float32).smallest_subnormal],
        [np.finfo(np.float32).max],
        [-np.finfo(np.float32).max, 1e30],
        [3e38, -3.4e38, 1e-45, 2.5e38],
        [1e-45, 1e-38, -1e-45],
    ],
    ids=str,
)
def test_the_smallest_and_the_largest_numbers(values):
    values = np.array(values, np.float32)
    sparse = SparseVector(100, np.arange(len(values)), values)
    back = decoded(encode_body(sparse, None), 100).densify()
    assert np.isfinite(back).all()
    largest = np.argmax(np.abs(values))
    assert abs(back[largest] - values[largest]) <= abs(values[largest]) / 3


def test_a_level_has_at_most_24_bits():
    values = np.full(3, 1e-30, np.float32)
    values[1] = 1e30
    rounded = quantize(SparseVector(3, np.arange(3), values))
    assert rounded.levels.max() <= HIGHEST_LEVEL


def test_nothing_kept_is_no_byte():
    empty = SparseVector(10, np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert encode_body(empty, None) == b""
    assert decoded(b"", 10).kept == 0
    zeros = SparseVector.of_dense(np.zeros(10, np.float32))
    assert encode_body(zeros, None) == b""


def test_structure_is_worth_bytes():
    """Columns that are large in one component are expected to be so in the next."""
    layout = layout_of((16, 512), (512, 16))
    vector = update_like(layout)
    shuffled = np.random.default_rng(1).permutation(vector)
    with_structure = len(encode_body(top_k(vector, 1 / 8), layout))
    without = len(encode_body(top_k(shuffled, 1 / 8), layout))
    assert with_structure < 0.85 * without


@settings(max_examples=30)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_one_row_of_any_length(count, seed):
    vector = np.random.default_rng(seed).standard_cauchy(count).astype(np.float32)
    coded = encode_body(top_k(vector, 1), None)
    np.testing.assert_array_equal(
        decoded(coded, count).densify(), decode_step(coded, count)
    )


def test_room_is_used_for_finer_steps():
    vector = update_like(LORA)
    everything = top_k(vector, 1)
    plain = len(encode_body(everything, LORA))
    errors = []
    for room in (plain, plain + 100, plain + 300, 2000):
        coded = encode_body(everything, LORA, room=room)
        assert plain <= len(coded) <= room
        assert len(coded) >= 0.98 * room
        back = decoded(coded, LORA.size).densify()
        errors.append(float(np.square(vector - back).sum()))
    assert errors == sorted(errors, reverse=True)
    # What top-k keeps of a few entries is sent more precisely, too.
    few = top_k(vector, 1 / 8)
    back = decoded(encode_body(few, LORA, room=400), LORA.size)
    np.testing.assert_array_equal(back.positions, few.positions)
    assert np.abs(back.values - few.values).max() < quantize(few).step / 8

"""Bytes from strangers: mutated payloads only ever raise PayloadError.

2,000 of them, and with ``-m exhaustive`` another 100,000. Half of the mutations have a
correct checksum, or hardly any would get past it.
"""

import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec import (
    VALUE_FORMATS,
    PayloadError,
    decode,
    encode,
    read_layout,
    values,
    version2,
)
from flasc_flwr.core.codec.bits import varint
from flasc_flwr.core.codec.step import by_block, by_context
from flasc_flwr.core.codec.values import Coding
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector, top_k
from tests.payload_bytes import resealed

from .samples import random_sparse
from .test_vectors import FACTORS, structured
from .vectors import read_vectors

HEADER = 32
"""About as many bytes as a header has."""


def layout_of(sizes: list[int]) -> Layout:
    return Layout.of(
        {f"t{i}.lora_A": np.zeros(size, np.float32) for i, size in enumerate(sizes)}
    )


def originals() -> list[tuple[bytes, int]]:
    """Return payloads that use every code between them, with their sizes."""
    rng = np.random.default_rng(0)
    made = []
    layout = layout_of([300, 700, 260, 512, 1000, 300])
    uneven = rng.standard_normal(layout.size).astype(np.float32)
    uneven[300:1000] = 0
    uneven[1260:1772] = np.sign(uneven[1260:1772]) * 9
    uneven[1260:1300] = 0
    uneven[2772:] = 5
    for form in VALUE_FORMATS:
        for density in (0.02, 0.2, 0.6, 1.0):
            sparse = random_sparse(rng, 2000, density)
            made.append((encode(sparse, form), 2000))
        sparse = top_k(uneven, 0.5)
        made.append(
            (encode(sparse, form, layout=layout, carry_layout=True), layout.size)
        )
        # A heavy tail makes entropy coding pay.
        positions = np.arange(0, 4000, 2)
        values = (rng.geometric(0.5, 2000) * 1.0 - 0.5).astype(np.float32) ** 5
        made.append((encode(SparseVector(4000, positions, values), form), 4000))
        # Levels of more than 8 bits.
        values = np.float32(10.0 ** rng.integers(-4, 4, 300))
        made.append((encode(SparseVector(600, np.arange(300), values), form), 600))
        made.append((encode(random_sparse(rng, 5, 0.5), form), 5))
        made.append((encode(random_sparse(rng, 0, 0.5), form), 0))
        made.append((encode(structured(), form, layout=FACTORS), FACTORS.size))
    headed = Layout.of(
        {n: np.zeros(s, np.float32) for n, s in {"lora_A": (9, 90), "h": 300}.items()}
    )
    vector = uneven[: headed.size]
    made += [
        (encode(top_k(vector, 0.5), form, layout=headed), headed.size)
        for form in ("int4+head=int8", "step+head=float16")
    ]
    # Enough for several lanes of the entropy coder.
    dense = random_sparse(rng, 33_000, 1.0)
    made.append((encode(dense, "int4"), 33_000))
    made += [
        (vector.payload, vector.size)
        for vector in (
            *read_vectors("version-2"),
            *read_vectors("version-3-by-context"),
        )
        if vector.size < 2000
    ]
    return made


# Warnings are errors for users who ask for that: there must be none.
pytestmark = pytest.mark.filterwarnings("error")

ORIGINALS = originals()


def test_the_originals_use_every_code(monkeypatch):
    seen = set()
    for module in (values, version2):

        def join(high, low, split, module=module, join=module.join):
            seen.add((module.__name__.split(".")[-1], split.coding))
            return join(high, low, split)

        monkeypatch.setattr(module, "join", join)
    ways = set()
    for way in (by_block, by_context):

        def read(reader, size, way=way, read=way.decode_levels):
            ways.add(way)
            return read(reader, size)

        monkeypatch.setattr(way, "decode_levels", read)
    for payload, size in ORIGINALS:
        decode(payload, size)
    assert len(ways) == 2
    old = {("version2", coding) for coding in (*Coding,)[:3]}
    assert seen == old | {("values", coding) for coding in Coding}


def mutated(rng: np.random.Generator, payload: bytes) -> bytes:
    """Change a payload in a few places; half of the results have a correct checksum."""
    data = bytearray(payload)
    for _ in range(rng.integers(1, 4)):
        # The header and what follows it are the most sensitive bytes.
        end = len(data) if rng.random() < 0.5 else min(len(data), HEADER + 32)
        at = int(rng.integers(0, max(1, end)))
        match rng.integers(0, 7):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 1 if data:
                data[at % len(data)] = int(rng.choice([0, 1, 127, 128, 255]))
            case 2:
                del data[at : at + int(rng.integers(1, 9))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                del data[at:]
            case 5:
                other, _ = ORIGINALS[rng.integers(0, len(ORIGINALS))]
                data[at:] = other[at:]
            case _:
                number = int(rng.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**63]))
                if rng.random() < 0.5:
                    data[at : at + 1] = varint(number)
                else:
                    data[at : at + 4] = number.to_bytes(8, "little")[:4]
    return sealed(data) if rng.random() < 0.5 else bytes(data)


def sealed(data: bytes | bytearray) -> bytes:
    """Return the payload with the checksum of its version."""
    if data[4:5] == b"\x02" and len(data) >= 52:
        data = data[:48] + bytes(4) + data[52:]
        return bytes(data[:48] + zlib.crc32(data).to_bytes(4, "little") + data[52:])
    return resealed(bytes(data))


def mutations(seed: int, number: int) -> Iterator[tuple[bytes, int]]:
    rng = np.random.default_rng(seed)
    for _ in range(number):
        payload, size = ORIGINALS[rng.integers(0, len(ORIGINALS))]
        yield mutated(rng, payload), size


def survives(payload: bytes, size: int) -> bool:
    """Decode and check the sparse vector; return whether it decoded."""
    try:
        sparse = decode(payload, size)
    except PayloadError as error:
        assert str(error)
        return False
    assert sparse.size == size
    assert (np.diff(sparse.positions) > 0).all()
    assert sparse.kept == 0 or 0 <= sparse.positions[0] <= sparse.positions[-1] < size
    assert np.isfinite(sparse.values).all()
    return True


def exhaustive(*cases):
    """Return a case that runs with ``-m exhaustive`` only."""
    return pytest.param(*cases, marks=[pytest.mark.exhaustive, pytest.mark.slow])


@pytest.mark.parametrize(
    ("seed", "number"),
    [(0, 2_000), *(exhaustive(seed, 5_000) for seed in range(1, 21))],
)
def test_mutated_payloads_only_raise_payload_errors(seed, number):
    decoded = 0
    for payload, size in mutations(seed, number):
        decoded += survives(payload, size)
        try:
            layout = read_layout(payload)
        except PayloadError:
            continue
        assert layout.size == size or not survives(payload, size)
    # Some mutations pass all checks, and most do not.
    assert 0 < decoded < number / 2


@pytest.mark.parametrize("number", [500, exhaustive(10_000)])
def test_memory_stays_within_a_small_multiple(number):
    worst = 0.0
    tracemalloc.start()
    try:
        for payload, size in mutations(1000, number):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            survives(payload, size)
            _, peak = tracemalloc.get_traced_memory()
            # 96 KiB for the interpreter's objects, error messages and zlib's window.
            allowed = 4 * size + len(payload) + 1
            worst = max(worst, (peak - before - 98304) / allowed)
    finally:
        tracemalloc.stop()
    print(f"peak memory: {worst:.1f} x (4 N + payload)")
    assert worst <= 12


@pytest.mark.parametrize("form", VALUE_FORMATS)
@pytest.mark.parametrize("density", [1 / 16, 1.0])
def test_memory_of_a_large_payload_stays_within_a_small_multiple(form, density):
    size = 1 << 20
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    payload = encode(top_k(vector, density), form)
    broken = bytearray(payload)
    broken[-5] ^= 64
    tracemalloc.start()
    try:
        for data in (payload, sealed(broken)):
            tracemalloc.reset_peak()
            survives(data, size)
            _, peak = tracemalloc.get_traced_memory()
            print(f"peak memory: {peak / (4 * size + len(data)):.1f} x (4 N + payload)")
            assert peak <= 12 * (4 * size + len(data))
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_any_bytes_only_raise_payload_errors(data, size):
    assert not survives(data, size)


@given(
    start=st.integers(0, 60),
    body=st.binary(max_size=120),
    which=st.sampled_from(ORIGINALS),
)
def test_any_tail_only_raises_payload_errors(start, body, which):
    payload, size = which
    survives(sealed(payload[: 11 + start] + body), size)

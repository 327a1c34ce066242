"""Committed payloads decode to the same vectors on every machine and in every version.

``python -m tests.codec.test_vectors`` writes the payloads of the current version.
"""

import json
from base64 import b64encode

import numpy as np
import pytest

from flasc_flwr.core.codec import VALUE_FORMATS, VERSION, decode, encode
from flasc_flwr.core.codec.header import check_magic
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import SparseVector

from .samples import sparse_of
from .vectors import FOLDER, digests, read_vectors

CURRENT = f"version-{VERSION}"


def integers(count: int, seed: int) -> np.ndarray:
    """Return numbers below 2**16 that need no random generator, shape (count,)."""
    state, drawn = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        drawn.append(state >> 48)
    return np.array(drawn, np.int64)


def sparse(size: int, kept_of_256: int, seed: int) -> SparseVector:
    """Return values of a bell shape, each exact in binary32."""
    positions = np.flatnonzero(integers(size, seed) % 256 < kept_of_256)
    count = len(positions)
    drawn = [integers(count, seed + i) - 2**15 for i in range(1, 5)]
    values = (sum(drawn) * 2.0**-14).astype(np.float32)
    values[values == 0] = 2.0**-20
    return SparseVector(size, positions.astype(np.int64), values)


LAYOUT = Layout.of(
    {
        f"t{i}.lora_{'AB'[i % 2]}": np.zeros(size, np.float32)
        for i, size in enumerate([300, 700, 260, 512, 900])
    }
)


FACTORS = Layout.of(
    {
        "m.lora_A": np.zeros((8, 300), np.float32),
        "m.lora_B": np.zeros((200, 8), np.float32),
    }
)


def structured() -> SparseVector:
    """Return values in a sixth of the inputs and outputs, which contexts are made for.

    Each exact in binary32.
    """
    vector = sparse(FACTORS.size, 256, 7).values
    inputs, outputs = integers(300, 1) % 6 == 0, integers(200, 2) % 6 == 0
    here = np.concatenate([np.tile(inputs, 8), np.repeat(outputs, 8)])
    positions = np.flatnonzero(here & (integers(FACTORS.size, 8) % 4 > 0))
    return SparseVector(FACTORS.size, positions.astype(np.int64), vector[positions])


def current() -> dict[str, tuple[SparseVector, bytes]]:
    """Return sparse vectors and their payloads, by case."""
    made = {}
    for form in VALUE_FORMATS:
        for kept in (0, 9, 64, 180, 256):
            vector = sparse(1500, kept, kept + 1)
            made[f"{form}-{kept}-of-256"] = vector, encode(vector, form)
        made[f"{form}-one"] = sparse_of(7, [4], [-0.75]), b""
        made[f"{form}-none"] = sparse_of(0, [], []), b""
        vector = sparse(LAYOUT.size, 40, 99)
        made[f"{form}-layout"] = (
            vector,
            encode(vector, form, layout=LAYOUT, carry_layout=True),
        )
        made[f"{form}-fingerprint"] = vector, encode(vector, form, layout=LAYOUT)
    # Several lanes of the entropy coder, the last step of them incomplete.
    vector = sparse(33_333, 256, 5)
    vector = SparseVector(vector.size, vector.positions, np.rint(vector.values))
    made["int4-lanes"] = vector, encode(vector, "int4")
    made["step-structured"] = (
        structured(),
        encode(structured(), layout=FACTORS, values="step"),
    )
    return {
        case: (vector, payload or encode(vector, case.split("-")[0]))
        for case, (vector, payload) in made.items()
    }


@pytest.mark.parametrize(
    ("name", "more_than"),
    [("version-2", 40), ("version-3", 40), ("version-3-by-context", 6)],
)
def test_committed_payloads_decode_to_the_committed_vectors(name, more_than):
    """The last are of vectors that are coded by block today, as that is shorter."""
    vectors = read_vectors(name)
    assert len(vectors) > more_than
    for vector in vectors:
        assert name.startswith(f"version-{check_magic(vector.payload)}")
        assert vector.is_of(decode(vector.payload, vector.size)), vector.name


def test_committed_payloads_are_what_is_encoded():
    made = current()
    vectors = read_vectors(CURRENT)
    assert [vector.name for vector in vectors] == list(made)
    for vector in vectors:
        # What zlib makes of a carried layout depends on its version.
        if not vector.name.endswith("-layout"):
            assert made[vector.name][1] == vector.payload, vector.name


def write() -> None:
    """Write the payloads of the current version."""
    rows = {}
    for case, (vector, payload) in current().items():
        positions, values = digests(decode(payload, vector.size))
        rows[case] = {
            "size": vector.size,
            "payload": b64encode(payload).decode(),
            "positions": positions,
            "values": values,
        }
    path = FOLDER / f"{CURRENT}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

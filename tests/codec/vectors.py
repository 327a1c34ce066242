"""Committed payloads, and the sparse vectors that they must decode to.

``vectors/NAME.json`` has, by the name of a case: ``size``, the ``payload`` in base64,
and the SHA-256 of positions (64-bit) and values (binary32), both little-endian.
"""

import json
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from flasc_flwr.core.sparsity import SparseVector

FOLDER = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Vector:
    """A payload of a vector of length `size`, and what it decodes to."""

    name: str
    size: int
    payload: bytes
    positions: str
    values: str

    def is_of(self, sparse: SparseVector) -> bool:
        """Return whether a sparse vector is what the payload must decode to."""
        return (self.size, self.positions, self.values) == (
            sparse.size,
            *digests(sparse),
        )


def digests(sparse: SparseVector) -> tuple[str, str]:
    """Return the digests of positions and values."""
    positions = sparse.positions.astype("<i8").tobytes()
    values = sparse.values.astype("<f4").tobytes()
    return sha256(positions).hexdigest(), sha256(values).hexdigest()


def read_vectors(name: str) -> list[Vector]:
    """Return the committed payloads of a version."""
    rows = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [
        Vector(
            case,
            row["size"],
            b64decode(row["payload"]),
            row["positions"],
            row["values"],
        )
        for case, row in rows.items()
    ]

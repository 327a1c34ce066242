"""A file that is hashed while it is written."""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO


class HashedFile:
    """Passes what is written on to a file, and hashes it.

    It cannot seek: what is hashed is what the file has, in the same order.

    Attributes
    ----------
    digest
        SHA-256 of what was written so far.

    Parameters
    ----------
    file : BinaryIO
        The file, open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, data: Any) -> int:
        """Write some bytes."""
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def read(self, size: int = -1) -> bytes:
        """Not available. It is here because numpy knows a file by it.

        Raises
        ------
        io.UnsupportedOperation
            Always.
        """
        raise io.UnsupportedOperation("read")

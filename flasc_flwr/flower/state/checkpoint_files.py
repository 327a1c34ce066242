"""The checkpoints of a run as files, each written atomically."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flasc_flwr.core.ranges import integer
from flasc_flwr.flower.state.checkpoint import Checkpoint, CheckpointError

_NAME = "checkpoint-{:06d}.flasc"
_NAMED = re.compile(r"checkpoint-(\d{6})\.flasc")
_ABANDONED = ".abandoned"
_KEPT = 2


class Checkpoints:
    """Writes the state of a run every few rounds.

    A run that is resumed from an older checkpoint leaves newer ones behind. They are
    renamed after its first round, so that the newest is always of the run that goes on.

    Parameters
    ----------
    folder : Path
        The folder; the newest two checkpoints are kept.
    every : int
        Rounds between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        integer(1).require("checkpoint-every", every)
        self._folder = folder
        self._every = every
        self._last: int | None = None

    def __call__(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, if its round is due."""
        if self._last is None or checkpoint.round <= self._last:  # a run begins
            _set_aside(self._folder, checkpoint.round)
        self._last = checkpoint.round
        if checkpoint.round % self._every == 0:
            write(self._folder, checkpoint)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whether due or not, and set later ones aside."""
        _set_aside(self._folder, checkpoint.round + 1)
        write(self._folder, checkpoint)


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a folder, and keep the previous one.

    The file appears under its name only when all of it is on the disk: a machine that
    stops at any moment leaves the previous checkpoints intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME.format(checkpoint.round)
    with replacing(path) as file:
        checkpoint.write_to(file)
    sync(folder)
    for old in found(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears when all of it is on the disk.

    Raises
    ------
    OSError
        If it cannot be written; the message has the path, and what was written of it
        does not stay on a disk that may be full.
    """
    scratch = path.with_suffix(".tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _set_aside(folder: Path, first: int) -> None:
    """Rename the checkpoints of a round and all later ones."""
    for path in found(folder):
        if path.name >= _NAME.format(first):
            os.replace(path, path.with_name(path.name + _ABANDONED))


def found(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob("*") if _NAMED.fullmatch(path.name))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint, or the newest of a folder.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged; the message names the previous one if that
        is intact.
    """
    if path.is_dir():
        checkpoints = found(path)
        if not checkpoints:
            raise CheckpointError(f"{str(path)!r} has no checkpoint")
        path = checkpoints[-1]
    try:
        return Checkpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint {str(path)!r} is damaged ({error}){_offer(path)}"
        ) from None


def _offer(damaged: Path) -> str:
    for older in reversed([p for p in found(damaged.parent) if p < damaged]):
        try:
            Checkpoint.from_bytes(older.read_bytes())
        except (OSError, ValueError):
            continue
        return f"; the previous one is intact: {str(older)!r}"
    return "; there is no intact one before it"


def sync(folder: Path) -> None:
    """Flush the names in a folder to the disk, if the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

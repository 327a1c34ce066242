"""Where a device keeps its memory between two messages: Flower's state, or a file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from logging import WARNING
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from flwr.app import ArrayRecord, Context
from numpy.typing import NDArray

from flasc_flwr.core.feedback.memory import DeviceMemory
from flasc_flwr.core.feedback.stored import Stored, restore_memory
from flasc_flwr.flower.compat import log, records_of
from flasc_flwr.flower.feedback.reminder import of_record
from flasc_flwr.flower.wire import array_record, arrays_of

STATE = "flasc.memory"
"""Key of the ArrayRecord in a node's state that holds its memory. If it has several
memories, a slash and the key of the ArrayRecord that each is of follow."""

MOST_MEMORIES = 16
"""Most memories of one node; those written the longest ago are dropped."""

MEMORY_FOLDER = "memory-folder"
"""Key of a node's ``--node-config``: the folder that it keeps its memory in."""


class MemoryFolderError(ValueError):
    """A memory-folder that cannot be used; the text does not say where it is."""


class KeptMemory(Protocol):
    """Keeps a device's memory between two messages of one Flower run."""

    def read(self) -> Mapping[str, NDArray[Any]] | None:
        """Return what was written last; None if there is nothing.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it cannot be read.
        """

    def write(self, stored: Stored) -> None:
        """Replace what was written."""


class InState:
    """In Flower's ``Context.state``.

    flwr 1.42 keeps it in the SuperNode's memory, for the length of a run: a SuperNode
    that was killed comes back without it.
    """

    def __init__(self, context: Context, key: str = "") -> None:
        self._state = context.state
        self._place = of_record(STATE, key)

    def read(self) -> Mapping[str, NDArray[Any]] | None:
        """Return what is in the state."""
        record = records_of(self._state, ArrayRecord).get(self._place)
        return None if record is None else arrays_of(record)

    def write(self, stored: Stored) -> None:
        """Put it into the state."""
        self._state.pop(self._place, None)  # so that it is the one written last
        self._state[self._place] = array_record(stored)
        places = [place for place in self._state if place.startswith(f"{STATE}/")]
        for place in places[:-MOST_MEMORIES]:
            del self._state[place]


class InFolder:
    """In a file, which is still there when a SuperNode was killed.

    The file is of one device and one Flower run: what a device has not sent of one run
    must not get into another. The device's last files are kept.

    Parameters
    ----------
    folder : Path
        The folder; made if it does not exist.
    context : Context
        The node's context, of which the run and the ``partition-id`` name the file.
    key : str
        Key of the ArrayRecord that the memory is of, if there may be several.
    """

    def __init__(self, folder: Path, context: Context, key: str = "") -> None:
        self._device = _short(repr(context.node_config.get("partition-id")))
        names = (self._device, f"{context.run_id:x}", *([_short(key)] if key else []))
        self._folder = folder
        self._path = folder / f"memory-{'-'.join(names)}.npz"

    def read(self) -> Mapping[str, NDArray[Any]] | None:
        """Return what is in the file, once its checksums are right."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(error) from error
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return dict(archive)
        except (BadZipFile, EOFError, OSError) as error:
            raise ValueError("the file is damaged") from error

    def write(self, stored: Stored) -> None:
        """Write the file, which appears under its name only when it is complete."""
        content = io.BytesIO()
        np.savez(content, **stored)  # type: ignore[arg-type]  # names are no options
        scratch = self._path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._path)
            self._forget_old_ones()
        except OSError as error:
            raise _unusable(error) from error

    def _forget_old_ones(self) -> None:
        files = self._folder.glob(f"memory-{self._device}-*.npz")
        newest_last = sorted(files, key=lambda path: path.stat().st_mtime_ns)
        for old in newest_last[:-MOST_MEMORIES]:
            old.unlink(missing_ok=True)


def kept_memory(context: Context, key: str = "") -> KeptMemory:
    """Return where a node keeps a memory.

    Parameters
    ----------
    context : Context
        The node's context.
    key : str
        Key of the ArrayRecord that it is of, if there may be several.

    Raises
    ------
    MemoryFolderError
        If the ``memory-folder`` is not an absolute path.
    """
    folder = context.node_config.get(MEMORY_FOLDER)
    if folder is None:
        return InState(context, key)
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise MemoryFolderError(f"{MEMORY_FOLDER} must be an absolute path")
    return InFolder(Path(folder), context, key)


def recalled(context: Context, key: str = "") -> DeviceMemory | None:
    """Return a node's memory; None if there is none that can be used.

    Raises
    ------
    MemoryFolderError
        If the node's ``memory-folder`` cannot be used.
    """
    try:
        stored = kept_memory(context, key).read()
        return None if stored is None else restore_memory(stored)
    except MemoryFolderError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        log(WARNING, "The node's memory cannot be read and is replaced: %s", error)
        return None


def held_version(context: Context, key: str = "") -> bytes | None:
    """Return the version of the reference that a node holds; None for none."""
    memory = recalled(context, key)
    return memory.reference.version if memory and memory.reference else None


def _short(text: str) -> str:
    """Return a name that a file may have."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _unusable(error: OSError) -> MemoryFolderError:
    reason = error.strerror or type(error).__name__
    return MemoryFolderError(f"{MEMORY_FOLDER} cannot be used: {reason}")

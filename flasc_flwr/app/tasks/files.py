"""Which files hold the rows of a split; an existing path is never a pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path

from datasets import Dataset, ReadInstruction

from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.formats.tables import FORMATS, read_tables
from flasc_flwr.app.tasks.images import image_arrays, image_folder

SUFFIXES = (*FORMATS, ".npz")
"""Endings of data files."""

_SPLITS = {"train", "test", "validation"}
"""Usual names of splits. A file with two of them would be rows of both."""

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")
_NOT_READ = (
    *(".tsv", ".ndjson", ".xls", ".xlsx", ".ods", ".orc", ".feather", ".pkl"),
    *_PACKED,
)
"""Endings of rows in other formats, which must not be left out silently."""


def read_split(path: Path, split: str) -> Dataset | None:
    """Return the rows of a split, or None if there is no such file or folder.

    The files of a split are those with its name as a word of theirs, such as
    ``news-train.csv``, or all tables in a folder of its name. We do not leave this to
    `datasets`, which guesses silently: it takes every match of a pattern as ``train``,
    test files included, adds files named ``eval`` to ``test``, and of two formats in a
    folder drops the rarer one.

    Parameters
    ----------
    path : Path
        A file, a folder, or else a pattern with ``*`` and ``?``.
    split : str
        Name of the split, or a slice of it such as ``train[:80%]``.

    Raises
    ------
    DataError
        If the files cannot be used.
    """
    name = split.partition("[")[0]
    if path.is_dir():
        return _read_folder(path, split)
    if path.is_file():
        if path.suffix.lower() != ".npz" and not _may_be(path, name):
            raise _one_table(path, name)
        return read_files([path], split)
    files = _of_split(_matches(path), name)
    return read_files(files, split) if files else None


def read_files(files: Sequence[Path], split: str) -> Dataset:
    """Return the rows of files that all belong to one split.

    Parameters
    ----------
    files : Sequence[Path]
        Tables of one format, or one npz file.
    split : str
        As for :func:`read_split`.

    Raises
    ------
    DataError
        If the format is unknown, formats are mixed, or the files cannot be read.
    """
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1 or not kinds <= set(SUFFIXES) or (".npz" in kinds and files[1:]):
        raise DataError(
            f"data files must have one format of {', '.join(FORMATS)}, or be one .npz, "
            f"got {[file.name for file in files]}"
        )
    if kinds == {".npz"}:
        return _slice(image_arrays(files[0], split.partition("[")[0]), split)
    return _slice(read_tables(files), split)


def _read_folder(folder: Path, split: str) -> Dataset:
    name = split.partition("[")[0]
    if (stored := _saved_to_disk(folder, name)) is not None:
        return read_files(stored, split)
    named, inside = _of_split(folder.iterdir(), name), folder / name
    tables = _tables(inside.iterdir()) if inside.is_dir() else []
    if tables and (deeper := _tables(inside.glob("[!.]*/**/*"))):
        raise DataError(
            f"the tables of a folder {name!r} must be in that folder, got others in a "
            "folder in it",
            f"one is {str(deeper[0])!r}",
        )
    if named and tables:
        raise DataError(
            f"the {name!r} rows of a folder must be in files with {name!r} in their "
            f"names, or in a folder {name!r}, got both"
        )
    if named or tables:
        return read_files(named or tables, split)
    if not inside.is_dir():
        raise DataError(
            f"the folder {str(folder)!r} must have files ({', '.join(FORMATS)}) with "
            f"{name!r} in their names, or a folder {name!r} of tables or images, got "
            "neither"
        )
    return _slice(image_folder(folder, name), split)


def _saved_to_disk(folder: Path, name: str) -> list[Path] | None:
    """Return the files of a split in a folder that `save_to_disk` wrote, else None."""
    splits = folder / "dataset_dict.json"
    if not (folder / name / "state.json").is_file():
        if splits.is_file():
            known = ", ".join(json.loads(splits.read_text())["splits"])
            raise DataError(
                f"the split of this folder of save_to_disk must be one of {known}, got "
                f"{name!r}"
            )
        if not (folder / "state.json").is_file():
            return None
        if name != "train":
            raise _one_table(folder, name)
        name = ""
    state = json.loads((folder / name / "state.json").read_text())
    # Other Arrow files in the folder are caches of `map`.
    return [folder / name / file["filename"] for file in state["_data_files"]]


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern matches. The parts of it that exist are not patterns.

    Brackets stand for themselves: they are more common in names than in patterns.
    """
    known = pattern
    while not known.exists() and known != known.parent:
        known = known.parent
    rest = str(pattern.relative_to(known)).replace("[", "[[]")
    return [known / found for found in glob(rest, root_dir=known)]


def _of_split(files: Iterable[Path], name: str) -> list[Path]:
    """Return the tables with the split as a word of their names.

    Raises
    ------
    DataError
        If one has the names of two splits: its rows would be in both.
    """
    found = _tables(file for file in files if name in _words(file))
    for file in found:
        if more := sorted(_SPLITS.intersection(_words(file)) - {name}):
            raise DataError(
                f"data file {file.name!r} must have the name of one split in its name, "
                f"got {name!r} and {more[0]!r}: rename it, or put it into a folder "
                f"{name!r}"
            )
    return found


def _tables(files: Iterable[Path]) -> list[Path]:
    """Return the tables among files.

    Raises
    ------
    DataError
        If there are tables, and rows in a format that is not read.
    """
    all_files = sorted(files)
    kept = [file for file in all_files if _is_table(file)]
    read = {name for file in kept for name in (file.name, file.stem)}
    others = [
        file
        for file in all_files
        if file.suffix.lower() in _NOT_READ
        and _shown(file)
        # A table is often kept beside the archive that it came in.
        and not (file.suffix.lower() in _PACKED and file.stem in read)
    ]
    if kept and others:
        raise DataError(
            f"data files must have one format of {', '.join(FORMATS)}, got "
            f"{kept[0].name!r} and {others[0].name!r}"
        )
    return kept


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in FORMATS and _shown(file)


def _shown(file: Path) -> bool:
    # Not `is_file`: a link to a file that is gone is an error, not a smaller data set.
    return not file.name.startswith(".") and not file.is_dir()


def _may_be(table: Path, name: str) -> bool:
    """Whether a single table has rows of a split: of "train", or that of its name."""
    words = _words(table)
    return name == "train" or (name in words and "train" not in words)


def _words(file: Path) -> list[str]:
    return re.split("[-_.]", file.stem)


def _one_table(path: Path, name: str) -> DataError:
    return DataError(
        f"dataset is only {path.name!r}, which has no {name!r} rows: use a folder or a "
        "pattern of files with the split in their names, or slices such as train-split "
        "= 'train[:80%]' and test-split = 'train[80%:]'"
    )


def _slice(rows: Dataset, split: str) -> Dataset:
    """Return the rows that a slice such as ``train[:80%]`` names."""
    _, bracket, ends = split.partition("[")
    if not bracket:
        return rows
    try:
        (part,) = ReadInstruction.from_spec(f"train[{ends}").to_absolute(
            {"train": len(rows)}
        )
    except (ValueError, AssertionError):
        raise DataError(
            f"a split must be a name or a slice such as 'train[:80%]', got {split!r}"
        ) from None
    begin, end = part.from_ or 0, len(rows) if part.to is None else part.to
    if not 0 <= begin < end <= len(rows):
        raise DataError(
            f"a split must be a slice with rows of the {len(rows)} that there are, got "
            f"{split!r}"
        )
    return rows.select(range(begin, end))

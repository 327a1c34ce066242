"""Rows of local files: parquet, CSV, JSON lines, npz, and folders of images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import glob
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, Image, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError

_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".json": "json",
}


def rows_of_part(path: Path, part: str) -> Dataset | None:
    """Return the rows of a split, or None where there is no such file or folder.

    Parameters
    ----------
    path : Path
        A file, a folder or a pattern.
    part : str
        Name of the split, or a slice of it.

    Raises
    ------
    ValueError
        If it is there, but cannot be used.
    """
    name, _, tail = part.partition("[")
    if path.is_file() and path.suffix != ".npz" and not _has_part(path, name):
        raise ValueError(
            f"dataset is the one file {path.name!r}, which has no {name!r} rows: give "
            "a pattern or a folder of files with the names of the splits in theirs, or "
            "take slices, such as train-split = 'train[:80%]' and test-split = "
            "'train[80%:]'"
        )
    rows = rows_of_path(path, name)
    return _slice(rows, name, tail) if rows is not None and tail else rows


def rows_of_path(path: Path, part: str) -> Dataset | None:
    """Return the rows of a file, or those of a split in a folder or a pattern.

    Raises
    ------
    ValueError
        As :func:`rows_of_part`.
    """
    if path.is_file():
        return _from_files([path], part)
    if path.is_dir():
        files = _of_part(path.iterdir(), part)
        return _from_files(files, part) if files else _from_images(path, part)
    files = _of_part((Path(file) for file in glob(str(path))), part)
    return _from_files(files, part) if files else None


def _has_part(file: Path, part: str) -> bool:
    """Whether a file that is named alone has a split: all of it is ``train``."""
    return part == "train" or part in _words(file)


def _of_part(files: Iterable[Path], part: str) -> list[Path]:
    return sorted(f for f in files if f.suffix in _FORMATS and part in _words(f))


def _words(file: Path) -> list[str]:
    return re.split("[-_.]", file.stem)


def _slice(rows: Dataset, name: str, tail: str) -> Dataset:
    wanted = ReadInstruction.from_spec(f"{name}[{tail}").to_absolute({name: len(rows)})
    return rows.select(range(wanted[0].from_, wanted[0].to))


def _from_images(path: Path, part: str) -> Dataset:
    if not (path / part).is_dir():
        raise ValueError(
            f"the folder {str(path)!r} has no file ({', '.join(_FORMATS)}) with "
            f"{part!r} in its name and no folder {part!r} of images"
        )
    # Labels even where there is one class alone.
    return load_dataset(
        "imagefolder", data_dir=str(path / part), split="train", drop_labels=False
    )


def _from_files(files: list[Path], part: str) -> Dataset:
    kinds = {file.suffix for file in files}
    if kinds == {".npz"} and len(files) == 1:
        return _from_arrays(files[0], part)
    if len(kinds) > 1 or not kinds <= _FORMATS.keys():
        raise ValueError(
            f"data files {[file.name for file in files]} have the kinds "
            f"{sorted(kinds)}, allowed is one of {', '.join(_FORMATS)} or .npz"
        )
    names = [str(file) for file in files]
    try:
        return load_dataset(_FORMATS[kinds.pop()], data_files=names, split="train")
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(
            f"data files {[file.name for file in files]} cannot be read, or have no "
            f"rows: {error.__cause__ or error}"
        ) from error


def _from_arrays(file: Path, part: str) -> Dataset:
    """Read images (n, height, width, 3) of uint8 and classes from an npz file."""
    with np.load(file) as arrays:
        missing = [n for n in (f"x_{part}", f"y_{part}") if n not in arrays]
        if missing:
            raise ValueError(
                f"data file {file.name!r} has no {', '.join(missing)}, but "
                f"{', '.join(arrays)}"
            )
        images = [PIL.Image.fromarray(image) for image in arrays[f"x_{part}"]]
        labels = arrays[f"y_{part}"].ravel().tolist()
    rows = Dataset.from_dict({"image": images, "label": labels})
    return rows.cast_column("image", Image())

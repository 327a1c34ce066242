"""Rows of local files and folders, read by the loaders of `datasets`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, Image, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError

_LOADERS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json"}


def read_split(path: Path, split: str) -> Dataset | None:
    """Return the rows of a split, or None if there is no such file or folder.

    The files of a split are those with its name as a word of theirs, such as
    ``news-train.csv``. We do not leave this to `datasets`, which guesses silently: it
    takes every match of a pattern as ``train``, test files included, adds files named
    ``eval`` to ``test``, and of two formats in a folder drops the rarer one.

    Parameters
    ----------
    path : Path
        A file, a folder or a pattern.
    split : str
        Name of the split, or a slice of it such as ``train[:80%]``.

    Raises
    ------
    ValueError
        If the files cannot be used.
    """
    name = split.partition("[")[0]
    if path.is_file():
        if path.suffix != ".npz" and name not in ("train", *_words(path)):
            raise ValueError(
                f"dataset is the single file {path.name!r}, which has no {name!r} "
                "rows: use a folder or a pattern of files with the split in their "
                "names, or slices such as train-split = 'train[:80%]' and test-split "
                "= 'train[80%:]'"
            )
        return read_files([path], split)
    found = path.iterdir() if path.is_dir() else map(Path, glob(str(path)))
    files = sorted(f for f in found if f.suffix in _LOADERS and name in _words(f))
    if files:
        return read_files(files, split)
    return _read_images(path, split) if path.is_dir() else None


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
    ValueError
        If the format is unknown, formats are mixed, or the files cannot be read.
    """
    names, kinds = [file.name for file in files], {file.suffix for file in files}
    if kinds == {".npz"}:
        return _read_arrays(files[0], split)
    if len(kinds) > 1 or not kinds <= _LOADERS.keys():
        raise ValueError(
            f"data files must have one format of {', '.join(_LOADERS)} or .npz, got "
            f"{names}"
        )
    paths = {split.partition("[")[0]: [str(file) for file in files]}
    try:
        return load_dataset(_LOADERS[kinds.pop()], data_files=paths, split=split)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(
            f"data files {names} cannot be read or have no rows "
            f"({type(error.__cause__ or error).__name__})"
        ) from error


def _words(file: Path) -> list[str]:
    return re.split("[-_.]", file.stem)


def _read_images(folder: Path, split: str) -> Dataset:
    name = split.partition("[")[0]
    if not (folder / name).is_dir():
        raise ValueError(
            f"the folder {str(folder)!r} has no file ({', '.join(_LOADERS)}) with "
            f"{name!r} in its name and no folder {name!r} of images"
        )
    # A pattern and not `data_dir`, in which a class named "test" would be a split.
    images = {name: str(folder / name / "**")}
    # By default, labels are dropped where there is only one class.
    return load_dataset(
        "imagefolder", data_files=images, split=split, drop_labels=False
    )


def _read_arrays(file: Path, split: str) -> Dataset:
    """Read images (n, height, width, 3) of uint8 and classes from an npz file.

    `datasets` has no loader for it.
    """
    name = split.partition("[")[0]
    with np.load(file) as arrays:
        missing = [n for n in (f"x_{name}", f"y_{name}") if n not in arrays]
        if missing:
            raise ValueError(
                f"data file {file.name!r} has no {', '.join(missing)}, only "
                f"{', '.join(arrays)}"
            )
        images = [PIL.Image.fromarray(image) for image in arrays[f"x_{name}"]]
        labels = arrays[f"y_{name}"].ravel().tolist()
    rows = Dataset.from_dict({"image": images, "label": labels})
    (part,) = ReadInstruction.from_spec(split).to_absolute({name: len(rows)})
    return rows.cast_column("image", Image()).select(range(part.from_, part.to))

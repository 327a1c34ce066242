"""Where models and data come from: the hub by name, local paths, installed packages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
from datasets import Dataset, Image, load_dataset

Loaded = TypeVar("Loaded")

_PACKAGE = "package:"
_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "json",
    ".json": "json",
}


def model_path(model: str) -> str:
    """Return what transformers loads for the key ``model``.

    ``package:NAME/FOLDER`` is a folder in an installed Python package; a path that
    exists is that; anything else is an id at the hub.

    Raises
    ------
    ValueError
        If nothing is named, or the package or the folder is not there.
    """
    if not model:
        raise ValueError(
            "model is '', but this task needs one: name a model at the hub, a folder, "
            "or 'package:NAME/FOLDER'"
        )
    if not model.startswith(_PACKAGE):
        local = Path(model).expanduser()
        if model.startswith(("/", "~", ".")) and not local.is_dir():
            raise ValueError(f"model is {model!r}, but there is no such folder")
        return str(local) if local.is_dir() else model
    package, _, folder = model.removeprefix(_PACKAGE).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"model is {model!r}, but no package {package!r} is installed")
    path = Path(spec.submodule_search_locations[0]) / folder
    if not path.is_dir():
        raise ValueError(f"model is {model!r}, but {package!r} has no such folder")
    return str(path)


def from_hub(what: str, key: str, name: str, load: Callable[[], Loaded]) -> Loaded:
    """Load from the hub or its cache, and say what to do where that fails.

    Raises
    ------
    ValueError
        With the key, the name and what to give in its place.
    """
    try:
        return load()
    except (OSError, ValueError, ConnectionError) as error:
        raise ValueError(
            f"{key} is {name!r}, and this {what} could not be loaded: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            f"Without a network, download it first where there is one, or give a "
            f"local path as {key}"
        ) from error


def load_rows(dataset: str, part: str, config_name: str = "") -> Dataset:
    """Return the rows of a data set.

    Parameters
    ----------
    dataset : str
        A file (parquet, CSV, JSON lines, or npz with ``x_<part>`` and ``y_<part>``), a
        folder, a pattern such as ``/data/news-*.parquet``, or a name at the hub.
        ``~`` and ``$VARIABLES`` are filled in. Of a folder or a pattern, files are
        taken that have `part` in their name; a folder without any has images, in one
        folder a class, in a folder named `part`.
    part : str
        Name of the split. A file that is named alone is all of one split.
    config_name : str
        Name of a part of a data set at the hub.

    Raises
    ------
    ValueError
        If there is no such data; it says what is missing.
    """
    if not dataset:
        raise ValueError(
            "dataset is '', but this task needs one: name a data set at the hub, a "
            "file or a folder"
        )
    path = Path(os.path.expandvars(dataset)).expanduser()
    if path.is_file():
        return _from_files([path], part)
    if path.is_dir():
        files = _of_part(path.iterdir(), part)
        return _from_files(files, part) if files else _from_images(path, part)
    if "*" in path.name:
        files = _of_part(path.parent.glob(path.name), part)
        if files:
            return _from_files(files, part)
    if "*" in dataset or dataset.startswith(("/", "~", ".", "$")):
        raise ValueError(
            f"dataset is {dataset!r}, but there is no such file or folder with "
            f"{part!r} rows"
        )
    loaded: Any = from_hub(
        "data set",
        "dataset",
        dataset,
        lambda: load_dataset(dataset, config_name or None, split=part),
    )
    return loaded


def _of_part(files: Iterable[Path], part: str) -> list[Path]:
    return sorted(
        file
        for file in files
        if file.suffix in _FORMATS and part in re.split("[-_.]", file.stem)
    )


def _from_images(path: Path, part: str) -> Dataset:
    if not (path / part).is_dir():
        raise ValueError(
            f"dataset is the folder {str(path)!r}, which has no file "
            f"({', '.join(_FORMATS)}) with {part!r} in its name and no folder "
            f"{part!r} of images"
        )
    return load_dataset("imagefolder", data_dir=str(path / part), split="train")


def _from_files(files: list[Path], part: str) -> Dataset:
    kinds = {file.suffix for file in files}
    if kinds == {".npz"} and len(files) == 1:
        return _from_arrays(files[0], part)
    if len(kinds) > 1 or not kinds <= _FORMATS.keys():
        raise ValueError(
            f"data files {[file.name for file in files]} have the kinds "
            f"{sorted(kinds)}, allowed is one of {', '.join(_FORMATS)}"
        )
    names = [str(file) for file in files]
    return load_dataset(_FORMATS[kinds.pop()], data_files=names, split="train")


def _from_arrays(file: Path, part: str) -> Dataset:
    """Read images (n, height, width, 3) and classes from an npz file."""
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


def require_columns(rows: Dataset, wanted: dict[str, str]) -> None:
    """Check that columns are there.

    Parameters
    ----------
    rows : Dataset
        The data.
    wanted : dict[str, str]
        Run-config key to the column that it names.

    Raises
    ------
    ValueError
        With the key, the column, and the columns that there are.
    """
    for key, column in wanted.items():
        if column not in rows.column_names:
            raise ValueError(
                f"{key} is {column!r}, but the data has the columns "
                f"{', '.join(rows.column_names)}"
            )

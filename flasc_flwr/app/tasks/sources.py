"""Where models and data come from: the hub by name, local paths, installed packages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, load_dataset

from flasc_flwr.app.tasks.files import rows_of_part, rows_of_path

Loaded = TypeVar("Loaded")

_PACKAGE = "package:"


def local_path(text: str) -> Path:
    """Return a path with ``~`` and ``$VARIABLES`` filled in."""
    return Path(os.path.expandvars(text)).expanduser()


def looks_local(text: str) -> bool:
    """Whether a text can only be a path, and not a name at the hub."""
    return text.startswith(("/", "~", ".", "$")) or "*" in text


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
        local = local_path(model)
        if looks_local(model) and not local.is_dir():
            raise ValueError(f"model is {model!r}, but there is no folder {local}")
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
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fetch = (
            f"load_dataset({name!r})"
            if key == "dataset"
            else f"AutoModel.from_pretrained({name!r})"
        )
        raise ValueError(
            f"{key} is {name!r}, and this {what} could not be loaded: {reason}. "
            f"Without a network, fill the cache where there is one ({fetch}), or give "
            f"a local path as {key}"
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
        Name of the split, or a slice of it such as ``train[:80%]``. A file that is
        named alone is all ``train``.
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
    rows = rows_of_part(local_path(dataset), part)
    if rows is not None:
        return rows
    if looks_local(dataset):
        unset = re.findall(r"\$\w+|\$\{\w+\}", str(local_path(dataset)))
        raise ValueError(
            f"dataset is {dataset!r}, but there is no such file or folder with "
            f"{part!r} rows{f': {unset[0]} is not set' if unset else ''}"
        )
    loaded: Any = from_hub(
        "data set",
        "dataset",
        dataset,
        lambda: load_dataset(dataset, config_name or None, split=part),
    )
    return loaded


def own_rows(path: str, part: str) -> Dataset:
    """Return the rows of a device's own file or folder: it never asks the hub.

    Parameters
    ----------
    path : str
        As for :func:`load_rows`; a file that is named alone is taken whole.
    part : str
        Name of the split that clients train on.

    Raises
    ------
    ValueError
        If there are none.
    """
    rows = rows_of_path(local_path(path), part.partition("[")[0])
    if rows is None:
        raise ValueError(
            f"data-path is {path!r}, but on this node there is no such file or folder"
        )
    if len(rows) == 0:
        raise ValueError(f"data-path is {path!r}, and it has no rows")
    return rows


def require_columns(rows: Dataset, wanted: Mapping[str, str]) -> None:
    """Check that columns are there.

    Parameters
    ----------
    rows : Dataset
        The data.
    wanted : Mapping[str, str]
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

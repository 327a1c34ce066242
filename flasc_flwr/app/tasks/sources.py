"""Where models and data come from: the hub, local paths, installed packages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from logging import WARNING
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.files import SUFFIXES, read_files, read_split
from flasc_flwr.app.tasks.gguf import is_gguf
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log

Loaded = TypeVar("Loaded")

_PACKAGE = "package:"
_GUESSED = {"csv": "CSV", "json": "JSON"}
"""Formats whose types `datasets` guesses; other files state theirs."""


def local_path(text: str) -> Path:
    """Return a path with ``~`` and ``$VARIABLES`` expanded."""
    return Path(os.path.expandvars(text)).expanduser()


def looks_local(text: str) -> bool:
    """Whether this can only be a path, and not a name on the hub."""
    return text.startswith(("/", "~", ".", "$")) or "*" in text


def model_path(model: str) -> str:
    """Return the path or hub id that transformers loads for the key ``model``.

    ``package:NAME/PATH`` is a folder or a GGUF file in an installed Python package, an
    existing absolute path is a local one, and anything else is an id on the hub.

    Raises
    ------
    ValueError
        If `model` is empty, the package, the folder or the file does not exist, or it
        is a relative path.
    """
    if not model:
        raise ValueError(
            "model must be a name on the hub, a folder, a GGUF file or "
            "'package:NAME/FOLDER' for this task, got ''"
        )
    if model.startswith(_PACKAGE):
        return str(_in_package(model))
    local, file = local_path(model), is_gguf(model)
    exists = local.is_file() if file else local.is_dir()
    if not exists and (file or looks_local(model)):
        what = "GGUF file" if file else "folder"
        raise ValueError(f"model must be a {what} that exists, got {model!r}")
    if exists and not local.is_absolute():
        # Where the folder is missing, the same text would name a model on the hub.
        raise ValueError(
            "model must be an absolute path, since the processes of a run work in "
            f"other folders than yours, or a name on the hub, got {model!r}, which is "
            f"a {'file' if file else 'folder'} here"
        )
    return str(local) if exists else model


def _in_package(model: str) -> Path:
    package, _, inner = model.removeprefix(_PACKAGE).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"model must name an installed package, got {model!r}: {package!r} is not "
            f"installed (pip install {package.replace('_', '-')})"
        )
    path = Path(spec.submodule_search_locations[0]) / inner
    if not (path.is_file() if is_gguf(model) else path.is_dir()):
        what = "GGUF file" if is_gguf(model) else "folder"
        raise ValueError(
            f"model must name a {what} in the package {package!r}, got {model!r}"
        )
    return path


def from_hub(key: str, name: str, load: Callable[[], Loaded]) -> Loaded:
    """Load what the run-config key `key` names, from the hub or its cache.

    Raises
    ------
    ValueError
        If that fails; the message says what to do.
    """
    try:
        return load()
    except (OSError, ValueError, ImportError, DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fetch = (
            f"load_dataset({name!r})"
            if key == "dataset"
            else f"AutoModel.from_pretrained({name!r})"
        )
        raise DataError(
            f"{key} {name!r} could not be loaded: {reason}. Without a network, fill "
            f"the cache first ({fetch}), or set {key} to a local path"
        ) from error


def load_rows(dataset: str, split: str, config_name: str = "") -> Dataset:
    """Return the rows of a data set.

    Parameters
    ----------
    dataset : str
        The absolute path of a file (parquet, CSV, JSON lines, Arrow, or npz with
        ``x_<split>`` and ``y_<split>``) or a folder; a pattern such as
        ``/data/news-*.parquet``; or a name on the hub. ``~`` and ``$VARIABLES`` are
        expanded. In a folder or a pattern, files with the split in their name are read;
        in a folder also the tables in ``<split>/``, or the images in
        ``<split>/<class>/``.
    split : str
        Name of the split, or a slice of it such as ``train[:80%]``. A single file is
        all ``train``.
    config_name : str
        Configuration of a data set on the hub.

    Raises
    ------
    ValueError
        If there is no such data; the message says what is missing.

    Notes
    -----
    Where `datasets` guessed the types of a data set on the hub, the log says so.
    """
    if not dataset:
        raise ValueError(
            "dataset must be a name on the hub, a file, a folder or a pattern for this "
            "task, got ''"
        )
    path = local_path(dataset)
    if path.is_absolute():
        rows = read_split(path, split)
        if rows is not None:
            if config_name:
                raise DataError(
                    "dataset-config must be '' for local data, which has no "
                    f"configurations, got {config_name!r}"
                )
            return rows
    if looks_local(dataset) and (path.is_absolute() or "$" in str(path)):
        unset = re.findall(r"\$\w+|\$\{\w+\}", str(path))
        raise DataError(
            f"dataset must be a file or a folder with {split!r} rows, got {dataset!r}"
            f"{f': {unset[0]} is not set' if unset else ''}"
        )
    if _is_relative(dataset):
        raise DataError(
            "dataset must be an absolute path, since the processes of a run work in "
            f"other folders than yours, or a name on the hub, got {dataset!r}"
        )
    loaded: Any = from_hub(
        "dataset",
        dataset,
        lambda: load_dataset(dataset, config_name or None, split=split),
    )
    if loaded.info.builder_name in _GUESSED:
        _warn_of_guesses(dataset, _GUESSED[loaded.info.builder_name])
    return loaded


@cache
def _warn_of_guesses(dataset: str, kind: str) -> None:
    log(
        WARNING,
        "dataset %r has %s files at the hub, whose types `datasets` guesses: 007 may "
        "be read as 7, NA as an empty cell, 2020-01-01 as a time. To have every value "
        "as it stands, download the files, and set dataset to their folder",
        printable(dataset),
        kind,
    )


def device_rows(path: str, split: str) -> Dataset:
    """Return the rows of a device's own file or folder; the hub is never asked.

    Parameters
    ----------
    path : str
        As for :func:`load_rows`; all rows of a single file are used.
    split : str
        The split that clients train on; a slice of it is ignored.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    local, name = local_path(path), split.partition("[")[0]
    if not local.is_absolute():
        raise DataError(
            "data-path must be the absolute path of a file or a folder on this node, "
            f"got {path!r}"
        )
    rows = read_files([local], name) if local.is_file() else read_split(local, name)
    if rows is None:
        raise DataError(
            f"data-path must be a file or a folder on this node, got {path!r}"
        )
    return rows


def _is_relative(text: str) -> bool:
    """Whether this is a relative path, and not a name on the hub."""
    parts = Path(text)
    return (
        text.startswith((".", "~"))
        or not {*text}.isdisjoint("*?[\\")
        or parts.suffix.lower() in SUFFIXES
        or len(parts.parts) > 2
        or parts.exists()
    )


def require_columns(rows: Dataset, wanted: Mapping[str, str]) -> None:
    """Check that columns exist.

    Parameters
    ----------
    rows : Dataset
        The data.
    wanted : Mapping[str, str]
        Column by the run-config key that names it.

    Raises
    ------
    ValueError
        If one is missing: its key, its name, and the columns of the data.
    """
    for key, column in wanted.items():
        if column not in rows.column_names:
            count = len(rows.column_names)
            commas = " (the fields of a CSV file are separated by commas)"
            raise DataError(
                f"{key} must be one of the columns of the data, which has {count}"
                f"{commas if count == 1 else ''}, got {column!r}",
                f"the columns are {', '.join(rows.column_names)}",
            )

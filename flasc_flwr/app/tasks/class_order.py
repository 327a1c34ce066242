"""A head that a model brings has its own order of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from logging import WARNING
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.labels import class_names, names_in_data
from flasc_flwr.app.tasks.sources import load_rows
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log

_UNNAMED = re.compile(r"LABEL_\d+")
_LONGEST = 200


def name_classes(
    model: PretrainedConfig, classes: int, config: RunConfig, *, kept: bool
) -> None:
    """Write the run's classes into a model's config; check a head that is kept.

    Exported models tell what they predict by these names. A head whose classes have
    other names is kept, with a warning: a run may well start from the head of a similar
    task.

    Parameters
    ----------
    model : PretrainedConfig
        The model's config; its ``id2label`` has the names of the head's classes.
    classes : int
        Their number.
    config : RunConfig
        The run's classes, and where its data is.
    kept : bool
        Whether the head is that of the checkpoint, and not a new one.

    Raises
    ------
    ValueError
        If the head has the run's classes in another order: it would start by taking
        one class for another.
    """
    ours, theirs = _names(config), _named(model.id2label) if kept else []
    if theirs:
        _compare(theirs, ours, config)
    names = ours or theirs or [f"LABEL_{number}" for number in range(classes)]
    model.id2label = dict(enumerate(names))
    model.label2id = {name: number for number, name in enumerate(names)}


def check_order_in_data(
    head: Mapping[Any, str] | None, rows: Dataset, config: RunConfig
) -> None:
    """Check the same of rows with class names, once they are loaded.

    Where ``classes`` says how many there are, a head is built without the data, which
    a device with data of its own never loads.

    Raises
    ------
    ValueError
        As :func:`name_classes`.
    """
    if class_names(config):
        return
    if (theirs := _named(head)) and (ours := names_in_data(rows, config.label_column)):
        _compare(theirs, ours, config)


def _named(head: Mapping[Any, str] | None) -> list[str]:
    """Return the names of a head's classes; none if they are not named."""
    if head is None:
        return []
    names = [str(head[number]) for number in sorted(head)]
    return [] if all(_UNNAMED.fullmatch(name) for name in names) else names


def _compare(theirs: list[str], ours: list[str], config: RunConfig) -> None:
    theirs_folded, ours_folded = ([n.casefold() for n in ns] for ns in (theirs, ours))
    if not ours or theirs_folded == ours_folded:
        return
    if sorted(theirs_folded) == sorted(ours_folded):
        raise ValueError(
            f"class-names must be in the order of the head of model {config.model!r}, "
            f"{_listed(theirs)}, got {_listed(ours)}"
            f"{'' if class_names(config) else ', as the data has them'}"
        )
    _say_others(config.model, _listed(theirs), _listed(ours))


@cache
def _say_others(model: str, theirs: str, ours: str) -> None:
    log(
        WARNING,
        "The head of model %r is kept, though its classes (%s) are not those of the "
        "run (%s)",
        model,
        theirs,
        ours,
    )


def _names(config: RunConfig) -> list[str]:
    """Return the names of the run's classes, if they are known at the server."""
    if names := class_names(config):
        return names
    if config.classes:
        return []
    rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    column = config.label_column
    return (column in rows.column_names and names_in_data(rows, column)) or []


def _listed(names: list[str]) -> str:
    return printable(", ".join(names), _LONGEST)

"""A head that a model brings has its own order of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from logging import WARNING

from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.labels import class_names, names_in_data
from flasc_flwr.app.tasks.sources import load_rows
from flasc_flwr.core.printable import printable
from flasc_flwr.flower.compat import log

_UNNAMED = re.compile(r"LABEL_\d+")
_LONGEST = 200


def check_class_order(head: Mapping[int, str], config: RunConfig) -> None:
    """Check that class n of a model's head is class n of the run.

    A head whose classes have other names is kept, with a warning: a run may well start
    from the head of a similar task.

    Parameters
    ----------
    head : Mapping[int, str]
        Names of the head's classes by number, the ``id2label`` of its config.
    config : RunConfig
        The run's classes, and where its data is.

    Raises
    ------
    ValueError
        If the head has the run's classes in another order: it would start by taking
        one class for another.
    """
    theirs = [str(head[number]) for number in sorted(head)]
    if not theirs or all(_UNNAMED.fullmatch(name) for name in theirs):
        return
    ours = _names(config)
    theirs_folded, ours_folded = ([n.casefold() for n in ns] for ns in (theirs, ours))
    if not ours or theirs_folded == ours_folded:
        return
    if sorted(theirs_folded) == sorted(ours_folded):
        raise ValueError(
            f"class-names must be in the order of the head of model {config.model!r}, "
            f"{_listed(theirs)}, got {_listed(ours)}"
        )
    log(
        WARNING,
        "The head of model %r is kept, though its classes (%s) are not those of the "
        "run (%s)",
        config.model,
        _listed(theirs),
        _listed(ours),
    )


def name_classes(model: PreTrainedModel, config: RunConfig) -> None:
    """Write the names of the run's classes, if known, into a model's config.

    A model that is saved would else name its answers as its checkpoint did.
    """
    if names := _names(config):
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}


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

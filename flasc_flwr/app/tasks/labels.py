"""Classes: how many there are, their numbers, and whether all are in range."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import load_rows, require_columns


def class_count(config: RunConfig) -> int:
    """Return how many classes there are: as told, or as the training rows have.

    Raises
    ------
    ValueError
        If the column is missing, or its classes are neither numbers nor named.
    """
    names = names_of(config)
    if names and config.classes not in (0, len(names)):
        raise ValueError(
            f"classes is {config.classes}, but class-names has {len(names)}: allowed "
            "is that or 0"
        )
    if names or config.classes:
        return len(names) or config.classes
    rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    require_columns(rows, {"label-column": config.label_column})
    known = own_names(rows, config.label_column)
    if known:
        return len(known)
    labels = [one for label in rows[config.label_column][:] for one in _several(label)]
    for label in labels:
        if type(label) is not int:
            raise ValueError(
                f"label-column is {config.label_column!r}, which has {label!r}: "
                "allowed are classes as numbers from 0, or names that class-names lists"
            )
    if not labels:
        raise ValueError(
            f"dataset is {config.dataset!r}, and its training split has no classes"
        )
    return int(max(labels)) + 1


def names_of(config: RunConfig) -> list[str]:
    """Return the names of the classes in their order; none if the run has none."""
    return [name.strip() for name in config.class_names.split(",") if name.strip()]


def own_names(rows: Dataset, column: str) -> list[str] | None:
    """Return the names that the data itself gives its classes, in its own order."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def numbered(rows: Dataset, config: RunConfig) -> Dataset:
    """Return rows whose classes are numbers, by ``class-names`` where it is given.

    Raises
    ------
    ValueError
        If a class has another name.
    """
    names, column = names_of(config), config.label_column
    if not names:
        return rows
    known = own_names(rows, column)

    def number(label: Any) -> Any:
        if isinstance(label, list):
            return [number(one) for one in label]
        name = known[label] if known and isinstance(label, int) else label
        if isinstance(name, str) and name not in names:
            raise ValueError(
                f"column {column!r} has the class {name!r}, which is none of "
                f"class-names: allowed are {', '.join(names)}"
            )
        return names.index(name) if isinstance(name, str) else name

    numbers = [number(label) for label in rows[column][:]]
    return rows.remove_columns(column).add_column(column, numbers)


def check_labels(rows: Dataset, column: str, classes: int, *, several: bool) -> None:
    """Check that all classes are in range.

    Parameters
    ----------
    rows : Dataset
        The data.
    column : str
        Its column of classes.
    classes : int
        How many there are.
    several : bool
        Whether each row has a list of them.

    Raises
    ------
    ValueError
        With the first row whose class is not.
    """
    allowed = f"0 to {classes - 1}"
    for number, label in enumerate(rows[column][:]):
        right_kind = isinstance(label, list) == several
        for one in label if several and right_kind else [label]:
            if not right_kind or type(one) is not int or not 0 <= one < classes:
                raise ValueError(
                    f"row {number} has {label!r} in column {column!r}, allowed "
                    f"{'are lists of' if several else 'is one of'} {allowed}: mend the "
                    "data, or set classes, class-names and multi-label"
                )


def _several(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]

"""Class labels: how many there are, their numbers, and checks of their range."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import load_rows, require_columns


def class_count(config: RunConfig) -> int:
    """Return the number of classes: as configured, or counted in the training rows.

    Raises
    ------
    ValueError
        If the column is missing, or its classes are neither numbers nor named.
    """
    names = class_names(config)
    if names and config.classes not in (0, len(names)):
        raise ValueError(
            f"classes must be 0 or the number of class-names, {len(names)}, got "
            f"{config.classes}"
        )
    if names or config.classes:
        return len(names) or config.classes
    rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    require_columns(rows, {"label-column": config.label_column})
    known = names_in_data(rows, config.label_column)
    if known:
        return len(known)
    labels = [one for label in rows[config.label_column][:] for one in _several(label)]
    for label in labels:
        if type(label) is not int:
            raise ValueError(
                f"label-column {config.label_column!r} must hold integers >= 0, or "
                f"names listed in class-names, got {type(label).__name__}"
            )
    if not labels:
        raise ValueError(
            f"dataset must have classes in its training split, got {config.dataset!r}"
        )
    return int(max(labels)) + 1


def class_names(config: RunConfig) -> list[str]:
    """Return the configured names of the classes in order; may be empty."""
    return [name.strip() for name in config.class_names.split(",") if name.strip()]


def names_in_data(rows: Dataset, column: str) -> list[str] | None:
    """Return the class names stored in the data, in its order; None without names."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def number_labels(rows: Dataset, config: RunConfig) -> Dataset:
    """Return rows with classes as numbers, in the order of ``class-names`` if set.

    Raises
    ------
    ValueError
        If a class is not among the names.
    """
    names, column = class_names(config), config.label_column
    if not names:
        return rows
    known = names_in_data(rows, column)

    def number(label: Any) -> Any:
        if isinstance(label, list):
            return [number(one) for one in label]
        name = known[label] if known and isinstance(label, int) else label
        if isinstance(name, str) and name not in names:
            raise ValueError(
                f"label-column {column!r} must hold one of class-names "
                f"({', '.join(names)}), got {type(name).__name__}"
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
        The column with the classes.
    classes : int
        Number of classes.
    several : bool
        Whether each row has a list of classes.

    Raises
    ------
    ValueError
        If one is not; the message names the first such row.
    """
    allowed = f"of the integers 0 to {classes - 1}"
    for number, label in enumerate(rows[column][:]):
        right_kind = isinstance(label, list) == several
        for one in label if several and right_kind else [label]:
            if not right_kind or type(one) is not int or not 0 <= one < classes:
                raise ValueError(
                    f"row {number} of label-column {column!r} must be "
                    f"{'a list' if several else 'one'} {allowed}, got another: fix "
                    "the data, or set classes, class-names or multi-label"
                )


def _several(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]

"""Data in rows: from a file or the hub, split over clients, made ready for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Sequence

from flasc_flwr.config import RunConfig
from flasc_flwr.tasks.partitioning import Partitions
from flasc_flwr.tasks.sources import load_rows, require_columns
from flasc_flwr.training.examples import Batch, Examples

LABELS = "labels"
"""Column with the classes, as numbers from 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Preparation:
    """How rows become a model's inputs.

    Attributes
    ----------
    columns : Mapping[str, str]
        Columns that have to be there: run-config key to name.
    prepare : Callable[[Dataset], Dataset]
        Turns loaded rows into prepared ones, once, with the result cached on disk.
    collate : Callable[[Mapping[str, Any], bool], Batch]
        Makes inputs of some prepared rows.
    """

    columns: Mapping[str, str]
    prepare: Callable[[Dataset], Dataset]
    collate: Callable[[Mapping[str, Any], bool], Batch]


class Tables:
    """A data set with a training and a test split.

    Parts of it are loaded when they are first asked for.

    Parameters
    ----------
    config : RunConfig
        Where the data is, and its columns.
    how : Preparation
        How rows become inputs.
    """

    def __init__(self, config: RunConfig, how: Preparation) -> None:
        self._config = config
        self._how = how

    def partition(self, partition_id: int, num_partitions: int) -> Examples:
        """Return a simulated client's training examples."""
        chosen = self._partitions.rows(partition_id, num_partitions)
        return self._examples(self._split["train"]).select(chosen)

    def own(self, path: str) -> Examples:
        """Return a device's own training examples."""
        rows = load_rows(path, self._config.train_split)
        if len(rows) == 0:
            raise ValueError(f"data-path is {path!r}, and it has no rows")
        return self._examples(self._prepared(rows))

    @property
    def validation(self) -> Examples:
        """The rows that the server keeps of the training split."""
        if "test" not in self._split:
            raise ValueError(
                "validation-fraction is 0, but the server needs validation data: "
                "allowed is a number above 0"
            )
        return self._examples(self._split["test"])

    @cached_property
    def test(self) -> Examples:
        """The test split."""
        config = self._config
        rows = load_rows(config.dataset, config.test_split, config.dataset_config)
        return self._examples(self._prepared(rows))

    @cached_property
    def _partitions(self) -> Partitions:
        rows, user = self._split["train"], self._config.user_column
        labels = rows[LABELS][:] if LABELS in rows.column_names else None
        if self._config.multi_label:
            labels = None
        users = rows[user][:] if user else None
        return Partitions(self._config, labels=labels, users=users, count=len(rows))

    @cached_property
    def _split(self) -> Mapping[str, Dataset]:
        """The training rows, as ``train``, and those kept for the server, ``test``."""
        config = self._config
        rows = load_rows(config.dataset, config.train_split, config.dataset_config)
        prepared = self._prepared(rows)
        if config.validation_fraction == 0:
            return {"train": prepared}
        # The same for every seed: what is validated on is never trained on.
        split: Mapping[str, Dataset] = prepared.train_test_split(
            test_size=config.validation_fraction, seed=0
        )
        return split

    def _prepared(self, rows: Dataset) -> Dataset:
        wanted = dict(self._how.columns)
        if self._config.user_column:
            wanted["user-column"] = self._config.user_column
        require_columns(rows, wanted)
        return self._how.prepare(rows)

    def _examples(self, rows: Dataset) -> Examples:
        return Examples(rows, np.arange(len(rows)), self._how.collate)


def class_count(config: RunConfig) -> int:
    """Return how many classes there are: as told, or as the training rows have.

    Raises
    ------
    ValueError
        If the column is missing, or its classes are neither numbers nor named.
    """
    if config.classes:
        return config.classes
    rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    require_columns(rows, {"label-column": config.label_column})
    feature = rows.features[config.label_column]
    inner = feature.feature if isinstance(feature, Sequence) else feature
    if isinstance(inner, ClassLabel):
        return int(inner.num_classes)
    labels = rows[config.label_column][:]
    if labels and isinstance(labels[0], list):
        labels = [label for several in labels for label in several]
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(
            f"label-column is {config.label_column!r}, whose first value is "
            f"{labels[0]!r}: allowed are classes as numbers from 0"
        )
    return int(max(labels)) + 1


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
                    "data, or set classes and multi-label"
                )

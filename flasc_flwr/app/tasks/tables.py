"""Tables of rows: loaded, split over the clients, and prepared for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError, cell, kind_of, without_values
from flasc_flwr.app.tasks.formats.cells import text_of
from flasc_flwr.app.tasks.labels import class_names, names_in_data
from flasc_flwr.app.tasks.shared_rows import say_shared_rows, say_shared_slices
from flasc_flwr.app.tasks.sources import device_rows, load_rows, require_columns
from flasc_flwr.app.training.examples import Batch, Examples

if TYPE_CHECKING:
    from flasc_flwr.app.tasks.partition_rows import Partitions

LABELS = "labels"
"""Column with the classes as numbers from 0."""
USER = "__user__"
"""Column with the user of each row as text, where each user is a client."""
DOMAIN = "__domain__"
"""Column with the domain of each row as text, where rows without classes have one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Preparation:
    """How rows become a model's inputs.

    Attributes
    ----------
    columns : Mapping[str, str]
        Required columns, by the run-config key that names them.
    prepare : Callable[[Dataset], Dataset]
        Prepares loaded rows, once; the result is cached on disk. Keeps the column
        `USER` if there is one.
    collate : Callable[[Mapping[str, Any], bool], Batch]
        Turns some prepared rows into inputs; the flag is true in training.
    usable : str
        Why all rows may be left out, for an error.
    """

    columns: Mapping[str, str]
    prepare: Callable[[Dataset], Dataset]
    collate: Callable[[Mapping[str, Any], bool], Batch]
    usable: str = "there are none"


class Tables:
    """A data set with a training and a test split, each loaded at its first use.

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
        with without_values():
            chosen = self._partitions.rows(partition_id, num_partitions)
            return self._examples(self._split["train"]).select(chosen)

    def local_examples(self, path: str) -> Examples:
        """Return a device's own training examples, without loading the run's data."""
        with without_values():
            return self._local_examples(path)

    def _local_examples(self, path: str) -> Examples:
        config = self._config
        rows = device_rows(path, config.train_split)
        names = self._names(rows)
        if names and not class_names(config):
            # In a folder of images, only the classes of this device are numbered.
            raise DataError(
                f"data-path {path!r} stores {len(names)} class names: set "
                "class-names to all classes of the run, so that they have the same "
                "numbers on every device",
                f"they are {', '.join(names)}",
            )
        return self._examples(self._prepared(rows, f"data-path {path!r}"))

    @property
    def validation(self) -> Examples:
        """The rows that the server keeps of the training split."""
        if "test" not in self._split:
            raise DataError(
                "validation-fraction must be > 0, since the server needs validation "
                "data, got 0"
            )
        return self._examples(self._split["test"])

    @cached_property
    def test(self) -> Examples:
        """The test split."""
        config = self._config
        if config.test_split == config.train_split:
            raise DataError(
                "test-split must have other rows than train-split, got "
                f"{config.test_split!r} for both: use slices such as train-split = "
                "'train[:80%]' and test-split = 'train[80%:]'"
            )
        rows = load_rows(config.dataset, config.test_split, config.dataset_config)
        say_shared_slices(config.train_split, config.test_split, self._count)
        self._check_names(rows)
        prepared = self._prepared(rows, f"test-split {config.test_split!r}")
        # Without validation rows, a server needs no training rows; where all are on
        # devices, it has none to compare with.
        if config.validation_fraction > 0:
            with suppress(DataError, OSError):
                say_shared_rows(self._split["train"], prepared)
        return self._examples(prepared)

    def _count(self, split: str) -> int:
        config = self._config
        return len(load_rows(config.dataset, split, config.dataset_config))

    @cached_property
    def _partitions(self) -> Partitions:
        # flwr-datasets takes 50 MB, which a device with data of its own does not need.
        from flasc_flwr.app.tasks.partition_rows import Partitions

        rows = self._split["train"]
        labels = rows[LABELS][:] if LABELS in rows.column_names else None
        if self._config.multi_label:
            labels = None
        if DOMAIN in rows.column_names:
            domains = rows[DOMAIN][:]
            numbers = {name: n for n, name in enumerate(sorted(set(domains)))}
            labels = [numbers[name] for name in domains]
        users = rows[USER][:] if USER in rows.column_names else None
        return Partitions(self._config, labels=labels, users=users, count=len(rows))

    @cached_property
    def _train(self) -> Dataset:
        config = self._config
        return load_rows(config.dataset, config.train_split, config.dataset_config)

    @cached_property
    def _split(self) -> Mapping[str, Dataset]:
        """The rows to train on (``train``) and those for validation (``test``)."""
        config, rows = self._config, self._train
        if config.domain_column:
            require_columns(rows, {"domain-column": config.domain_column})
        if config.user_column:
            require_columns(rows, {"user-column": config.user_column})
            if config.partitioner == "natural-id":
                rows = rows.add_column(USER, _users(rows, config.user_column))
        prepared = self._prepared(rows, f"train-split {config.train_split!r}")
        if config.validation_fraction == 0:
            return {"train": prepared}
        if ceil(config.validation_fraction * len(prepared)) >= len(prepared):
            raise DataError(
                f"validation-fraction must leave some of {len(prepared)} rows to train "
                f"on, got {config.validation_fraction}"
            )
        # The same for every seed: no run trains on rows that another run was tuned on.
        split: Mapping[str, Dataset] = prepared.train_test_split(
            test_size=config.validation_fraction, seed=0
        )
        return split

    def _check_names(self, rows: Dataset) -> None:
        """Check that classes have the same numbers in the training split."""
        theirs = self._names(rows)
        if class_names(self._config) or theirs is None:
            return
        if theirs != self._names(self._train):
            raise DataError(
                "test-split must have the same classes as train-split, got "
                f"{len(theirs)} with other names: set class-names to all classes",
                f"they are {', '.join(theirs)}",
            )

    def _names(self, rows: Dataset) -> list[str] | None:
        column = self._how.columns.get("label-column")
        if column is None or column not in rows.column_names:
            return None
        return names_in_data(rows, column)

    def _prepared(self, rows: Dataset, what: str) -> Dataset:
        require_columns(rows, self._how.columns)
        prepared = self._how.prepare(rows)
        if len(prepared) == 0:
            raise DataError(f"{what} has no usable rows: {self._how.usable}")
        return prepared

    def _examples(self, rows: Dataset) -> Examples:
        return Examples(rows, np.arange(len(rows)), self._how.collate)


def _users(rows: Dataset, column: str) -> list[str]:
    """Return the user of every row as text, the same whatever type the file has."""
    users = []
    for row, user in enumerate(rows[column][:]):
        known = text_of(user) if isinstance(user, str | int | float) else None
        if known is None:
            raise DataError(
                f"{cell(row, 'user-column', column)} must be text or a number, got "
                f"{kind_of(user)}: every row needs a user with partitioner = "
                "'natural-id'"
            )
        users.append(known)
    return users

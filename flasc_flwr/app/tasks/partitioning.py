"""Partitioners by name: how a data set is split over the clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from logging import WARNING
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
)

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.flasc_dirichlet import ColumnNormalisedDirichletPartitioner
from flasc_flwr.flower.compat import log

# Not "index", which may be a column of the data set.
_ROW = "__row__"


class ShuffledIidPartitioner(IidPartitioner):  # type: ignore[misc]
    """Flower's ``IidPartitioner`` on shuffled rows: it does not shuffle by itself.

    Parameters
    ----------
    num_partitions : int
        Clients, >= 1.
    seed : int
        Seed of the shuffling.
    """

    def __init__(self, num_partitions: int, seed: int) -> None:
        super().__init__(num_partitions)
        self._seed = seed

    @property
    def dataset(self) -> Dataset:
        """The data, shuffled."""
        return super().dataset

    @dataset.setter
    def dataset(self, value: Dataset) -> None:
        # In memory, so that no file is written to the data set's cache.
        shuffled = value.shuffle(seed=self._seed, keep_in_memory=True)
        Partitioner.dataset.fset(self, shuffled)


class _Settings(NamedTuple):
    num_partitions: int
    label: str
    seed: int
    alpha: float
    classes_per_partition: int
    user: str | None


PARTITIONERS: dict[str, Callable[[_Settings], Partitioner]] = {
    "dirichlet": lambda wanted: DirichletPartitioner(
        num_partitions=wanted.num_partitions,
        partition_by=wanted.label,
        alpha=wanted.alpha,
        min_partition_size=1,
        seed=wanted.seed,
    ),
    "flasc-dirichlet": lambda wanted: ColumnNormalisedDirichletPartitioner(
        num_partitions=wanted.num_partitions,
        partition_by=wanted.label,
        alpha=wanted.alpha,
        seed=wanted.seed,
    ),
    "iid": lambda wanted: ShuffledIidPartitioner(wanted.num_partitions, wanted.seed),
    "pathological": lambda wanted: PathologicalPartitioner(
        num_partitions=wanted.num_partitions,
        partition_by=wanted.label,
        num_classes_per_partition=wanted.classes_per_partition,
        # As in the paper. The default mode may leave classes unused.
        class_assignment_mode="first-deterministic",
        seed=wanted.seed,
    ),
    "natural-id": lambda wanted: NaturalIdPartitioner(partition_by=wanted.user),
}
"""Partitioners by name: those of `flasc_flwr.app.config.PARTITIONERS`."""


def partitioner(
    name: str,
    *,
    num_partitions: int,
    label: str,
    seed: int,
    alpha: float,
    classes_per_partition: int,
    user: str | None,
) -> Partitioner:
    """Build a partitioner by name.

    Parameters
    ----------
    name : str
        One of ``PARTITIONERS``.
    num_partitions : int
        Number of clients, >= 1. Ignored by "natural-id", where each user is a client.
    label : str
        The column of labels. Ignored by "iid" and "natural-id".
    seed : int
        Seed of draws and shuffling.
    alpha : float
        Label skew of "dirichlet" and "flasc-dirichlet", > 0.
    classes_per_partition : int
        Classes per client, >= 1; only for "pathological".
    user : str or None
        The column of users, only for "natural-id"; None if there is none.

    Raises
    ------
    DataError
        If the name is unknown, or "natural-id" without a column of users, or a setting
        is out of range.
    """
    allowed = [key for key in PARTITIONERS if key != "natural-id" or user is not None]
    if name not in allowed:
        without = " without a user-column" if name in PARTITIONERS else ""
        raise DataError(
            f"partitioner must be one of {', '.join(allowed)}{without}, got {name!r}"
        )
    if name == "pathological" and classes_per_partition < 1:
        raise DataError(
            "classes-per-partition must be an integer >= 1, got "
            f"{classes_per_partition}"
        )
    return PARTITIONERS[name](
        _Settings(num_partitions, label, seed, alpha, classes_per_partition, user)
    )


def split(
    dataset: Dataset, partitioner: Partitioner, num_partitions: int
) -> list[list[int]]:
    """Return the row numbers of each partition.

    Parameters
    ----------
    dataset : Dataset
        The rows. Only the column that the partitioner uses is needed.
    partitioner : Partitioner
        A partitioner without a data set.
    num_partitions : int
        Number of clients, >= 1. With "natural-id", further users are left out.

    Returns
    -------
    list[list[int]]
        ``num_partitions`` lists, none of them empty; no row is in two lists.
        "pathological" leaves out the rows of classes that no client has.

    Raises
    ------
    DataError
        If the partitioner makes another number of partitions, or there are fewer rows
        than partitions, or some partitions are empty; and any error of the partitioner.
    """
    if num_partitions < 1:
        raise DataError(f"num-partitions must be >= 1, got {num_partitions}")
    rows = np.arange(len(dataset))
    partitioner.dataset = dataset.with_format(None).add_column(_ROW, rows)
    made = partitioner.num_partitions
    natural = isinstance(partitioner, NaturalIdPartitioner)
    if natural and num_partitions > made:
        raise DataError(
            f"num-partitions must be <= {made}, the number of users, got "
            f"{num_partitions}"
        )
    if not natural and num_partitions != made:
        raise DataError(
            f"num-partitions must be {made}, as the partitioner makes, got "
            f"{num_partitions}"
        )
    # Flower's IID partitioner would fail with a bare IndexError.
    if num_partitions > len(dataset):
        raise DataError(
            f"num-partitions must be <= {len(dataset)}, the number of rows, got "
            f"{num_partitions}"
        )
    parts = [partitioner.load_partition(i)[_ROW][:] for i in range(num_partitions)]
    empty = [i for i, part in enumerate(parts) if not part]
    if empty:
        raise DataError(
            f"partitions {empty} of {num_partitions} have no rows: use fewer "
            f"partitions for these {len(dataset)} rows"
        )
    return parts


class Partitions:
    """Rows of a data set, split as the run config says; cached by number of clients.

    Parameters
    ----------
    config : RunConfig
        Partitioner, its settings, and the seed.
    labels : Sequence[int], optional
        Class of each row, if rows have one.
    users : Sequence, optional
        User of each row, if known.
    count : int, optional
        Number of rows, needed without labels and users.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        labels: Sequence[int] | None = None,
        users: Sequence[Any] | None = None,
        count: int | None = None,
    ) -> None:
        self._config = config
        columns = {"label": labels, "user": users}
        known = {name: list(rows) for name, rows in columns.items() if rows is not None}
        self._rows = Dataset.from_dict(known or {"row": list(range(count or 0))})
        self._made: dict[int, list[list[int]]] = {}

    def rows(self, partition_id: int, num_partitions: int) -> list[int]:
        """Return the row numbers of a partition.

        Raises
        ------
        DataError
            As :func:`partitioner` and :func:`split`, and if the partitioner needs
            classes and rows have none, or too few.
        """
        if num_partitions not in self._made:
            self._made[num_partitions] = self._split(num_partitions)
        return self._made[num_partitions][partition_id]

    def _split(self, num_partitions: int) -> list[list[int]]:
        config, columns = self._config, self._rows.column_names
        if config.partitioner not in ("iid", "natural-id") and "label" not in columns:
            raise DataError(
                "partitioner must be iid or natural-id for rows without one class "
                f"each, got {config.partitioner!r}"
            )
        classes = len(set(self._rows["label"])) if "label" in columns else 0
        if config.partitioner == "pathological" and (
            config.classes_per_partition > classes
        ):
            raise DataError(
                f"classes-per-partition must be <= {classes}, the number of classes in "
                f"the training rows, got {config.classes_per_partition}"
            )
        made = partitioner(
            config.partitioner,
            num_partitions=num_partitions,
            label="label",
            seed=config.seed,
            alpha=config.dirichlet_alpha,
            classes_per_partition=config.classes_per_partition,
            user="user" if "user" in columns else None,
        )
        try:
            parts = split(self._rows, made, num_partitions)
        except DataError:
            raise
        except ValueError as error:
            # Of a library's partitioner, which names counts and class numbers.
            raise DataError(
                f"partitioner {config.partitioner!r} cannot split the data: {error}"
            ) from error
        if left_out := len(self._rows) - sum(map(len, parts)):
            log(
                WARNING,
                "%d of %d training rows are in none of the %d partitions of "
                "partitioner %r",
                left_out,
                len(self._rows),
                num_partitions,
                config.partitioner,
            )
        return parts

"""How a data set is split over the clients: a table of partitioners by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from flasc_flwr.app.tasks.flasc_dirichlet import ColumnNormalisedDirichletPartitioner

# Not "index", which a data set may have itself.
_ROW = "__row__"


class ShuffledIidPartitioner(IidPartitioner):  # type: ignore[misc]
    """Flower's ``IidPartitioner``, which keeps the order of the rows, on shuffled rows.

    Parameters
    ----------
    num_partitions : int
        Clients, >= 1.
    seed : int
        Of the shuffling.
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
        # In memory, so that no file is left in the data set's cache.
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
        # As in the paper it follows. Its default may leave whole classes unused.
        class_assignment_mode="first-deterministic",
        seed=wanted.seed,
    ),
    "natural-id": lambda wanted: NaturalIdPartitioner(partition_by=wanted.user),
}
"""Partitioners by name, as `flasc_flwr.app.config.PARTITIONERS` lists them."""


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
    """Build the partitioner of a name.

    Parameters
    ----------
    name : str
        One of ``PARTITIONERS``.
    num_partitions : int
        Clients, >= 1. Not for "natural-id", which makes one of each user.
    label : str
        The column of labels; not for "iid" and "natural-id".
    seed : int
        Of whatever is drawn or shuffled.
    alpha : float
        Label skew of "dirichlet" and "flasc-dirichlet", > 0.
    classes_per_partition : int
        Classes of a client, >= 1; for "pathological" alone.
    user : str or None
        The column that names users, for "natural-id" alone; None if there is none.

    Raises
    ------
    ValueError
        If the name is unknown, is "natural-id" where no column names users, or a
        setting that it uses is out of range.
    """
    allowed = [key for key in PARTITIONERS if key != "natural-id" or user is not None]
    if name not in allowed:
        known = name in PARTITIONERS
        reason = "this data has no column that names users, " if known else ""
        raise ValueError(
            f"partitioner = {name!r}: {reason}allowed is {' or '.join(allowed)}"
        )
    if name == "pathological" and classes_per_partition < 1:
        raise ValueError(
            f"classes_per_partition = {classes_per_partition}: "
            "allowed is a whole number >= 1"
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
        The rows. The column that the partitioner goes by is enough.
    partitioner : Partitioner
        One that has no data set yet.
    num_partitions : int
        Clients, >= 1. Users beyond it are left out; any other partitioner has to make
        exactly as many.

    Returns
    -------
    list[list[int]]
        ``num_partitions`` lists, none empty; no row is in two of them. "pathological"
        leaves out the rows of a class that no client has.

    Raises
    ------
    ValueError
        If the partitioner makes another number of partitions, there are more of them
        than rows, or some are empty, which are named. And whatever the partitioner
        finds wrong.
    """
    if num_partitions < 1:
        raise ValueError(f"num_partitions = {num_partitions}: allowed is a number >= 1")
    rows = np.arange(len(dataset))
    partitioner.dataset = dataset.with_format(None).add_column(_ROW, rows)
    made = partitioner.num_partitions
    natural = isinstance(partitioner, NaturalIdPartitioner)
    if natural and num_partitions > made:
        raise ValueError(
            f"num_partitions = {num_partitions}, but the data has only {made} users"
        )
    if not natural and num_partitions != made:
        raise ValueError(
            f"num_partitions = {num_partitions}, but the partitioner makes {made}"
        )
    # Flower's IID partitioner would fail here with a bare IndexError.
    if num_partitions > len(dataset):
        raise ValueError(
            f"num_partitions = {num_partitions}, but the data has only "
            f"{len(dataset)} rows"
        )
    parts = [partitioner.load_partition(i)[_ROW][:] for i in range(num_partitions)]
    empty = [i for i, part in enumerate(parts) if not part]
    if empty:
        raise ValueError(
            f"Partitions {empty} of {num_partitions} have no rows: ask for fewer "
            f"partitions of these {len(dataset)} rows"
        )
    return parts


class Partitions:
    """Rows of a data set as the run config splits them, made once for each number.

    Parameters
    ----------
    config : RunConfig
        Partitioner, its settings, and the seed.
    labels : Sequence[int], optional
        Class of each row, where rows have one.
    users : Sequence, optional
        Whose each row is, where that is known.
    count : int, optional
        Number of rows, needed where neither is known.
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
        there = {name: list(rows) for name, rows in columns.items() if rows is not None}
        self._rows = Dataset.from_dict(there or {"row": list(range(count or 0))})
        self._made: dict[int, list[list[int]]] = {}

    def rows(self, partition_id: int, num_partitions: int) -> list[int]:
        """Return the row numbers of a partition.

        Raises
        ------
        ValueError
            As :func:`partitioner` and :func:`split`, and if the partitioner goes by
            classes and rows have none.
        """
        if num_partitions not in self._made:
            self._made[num_partitions] = self._split(num_partitions)
        return self._made[num_partitions][partition_id]

    def _split(self, num_partitions: int) -> list[list[int]]:
        config, columns = self._config, self._rows.column_names
        if config.partitioner not in ("iid", "natural-id") and "label" not in columns:
            raise ValueError(
                f"partitioner = {config.partitioner!r}: these rows have no one class "
                "each, allowed is iid or natural-id"
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
        return split(self._rows, made, num_partitions)

"""Partitioners by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from datasets import Dataset
from flwr_datasets.partitioner import (
    DirichletPartitioner,
    IidPartitioner,
    NaturalIdPartitioner,
    Partitioner,
    PathologicalPartitioner,
)

from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.flasc_dirichlet import ColumnNormalisedDirichletPartitioner


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

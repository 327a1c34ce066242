"""Which rows of a data set each partition has."""

from __future__ import annotations

from collections.abc import Sequence
from logging import WARNING
from typing import Any

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import NaturalIdPartitioner, Partitioner

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.partitioning import partitioner
from flasc_flwr.flower.compat import log

# Not "index", which may be a column of the data set.
_ROW = "__row__"


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
            As :func:`.partitioner` and :func:`split`, and if the partitioner needs
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

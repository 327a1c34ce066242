"""FLASC's partitioner: it skews the labels of the clients but not their sizes."""

from __future__ import annotations

import math

import numpy as np
from datasets import Dataset
from flwr_datasets.partitioner import Partitioner
from numpy.typing import NDArray

_REDRAWS = 10


class ColumnNormalisedDirichletPartitioner(Partitioner):  # type: ignore[misc]
    """Clients of nearly equal size, each with its own mix of classes.

    Each client draws its mix from Dir(alpha); the rows of each class are then divided
    in proportion to what the clients drew of it. Every row goes to exactly one client.

    Parameters
    ----------
    num_partitions : int
        Number of clients, >= 1.
    partition_by : str
        The column of labels.
    alpha : float
        Label skew, > 0 and finite: smaller is more skewed.
    seed : int
        Seed of the draw and the shuffling.
    shuffle : bool
        Whether to shuffle the rows of each class before dividing them, and those of
        each client after it. Without, a client has a consecutive range of each class,
        as in FLASC's code.
    min_partition_size : int
        Least number of rows per client. As in Flower's ``DirichletPartitioner``, the
        mixes are redrawn up to 10 times while a client has fewer. With 0, clients may
        be empty (with fewer rows than clients, some must be).

    Raises
    ------
    ValueError
        If ``num_partitions``, ``alpha`` or ``min_partition_size`` is out of range; at
        the first use of the data, if the column is missing or clients have too few
        rows after the last draw.

    Notes
    -----
    ``partition_dirichlet`` in ``data_utils.py`` of github.com/imkevinkuo/flasc rounds
    the count of each client and class separately, and so drops rows or runs out of
    them. Here a class is cut at its rounded cumulative shares, so that a count differs
    from the rounded one by at most 1.
    """

    def __init__(
        self,
        num_partitions: int,
        partition_by: str,
        alpha: float,
        seed: int = 42,
        shuffle: bool = True,
        min_partition_size: int = 1,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_partitions", num_partitions, 1),
            ("min_partition_size", min_partition_size, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be a finite number > 0, got {alpha}")
        self._num_partitions = num_partitions
        self._partition_by = partition_by
        self._alpha = alpha
        self._seed = seed
        self._shuffle = shuffle
        self._min_partition_size = min_partition_size
        self._rows: list[NDArray[np.int64]] | None = None

    @property
    def num_partitions(self) -> int:
        """The number of clients."""
        return self._num_partitions

    def load_partition(self, partition_id: int) -> Dataset:
        """Return the rows of one client."""
        if self._rows is None:
            self._rows = self._assign()
        return self.dataset.select(self._rows[partition_id])

    def _assign(self) -> list[NDArray[np.int64]]:
        """Return the row numbers of each client."""
        columns = self.dataset.column_names
        if self._partition_by not in columns:
            raise ValueError(
                f"partition_by must be one of the columns {', '.join(columns)}, got "
                f"{self._partition_by!r}"
            )
        labels = np.asarray(self.dataset[self._partition_by][:])
        least = self._min_partition_size
        if len(labels) < self._num_partitions * least:
            raise ValueError(
                f"{len(labels)} rows are too few for {self._num_partitions} partitions "
                f"of at least {least}"
            )
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        rng = np.random.default_rng(self._seed)
        for _ in range(1 + _REDRAWS):
            clients = self._draw(classes, rng)
            small = [i for i, rows in enumerate(clients) if len(rows) < least]
            if not small:
                return clients
        raise ValueError(
            f"partitions {small} have fewer rows than min_partition_size = {least} "
            f"after {_REDRAWS} redraws with alpha = {self._alpha}: use fewer "
            "partitions, or change alpha"
        )

    def _draw(
        self, classes: list[NDArray[np.int64]], rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Divide the rows of each class; return the rows of each client."""
        logs = log_dirichlet(rng, self._alpha, self._num_partitions, len(classes))
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=0, keepdims=True))
        clients: list[list[NDArray[np.int64]]] = [[] for _ in shares]
        # Each class is rounded with a random offset: otherwise equal shares would be
        # rounded up for the same clients in all classes.
        starts = rng.random(len(classes))
        for rows, share, start in zip(classes, shares.T, starts, strict=True):
            # Rounding the cumulative sum, not each share, leaves no row over.
            cuts = np.floor(np.cumsum(share) * len(rows) + start)[:-1]
            rows = rng.permutation(rows) if self._shuffle else rows
            for client, part in zip(
                clients, np.split(rows, cuts.astype(np.int64)), strict=True
            ):
                client.append(part)
        joined = [np.concatenate(client) for client in clients]
        return [rng.permutation(rows) for rows in joined] if self._shuffle else joined


def log_dirichlet(
    rng: np.random.Generator, alpha: float, draws: int, classes: int
) -> NDArray[np.float64]:
    """Draw from Dir(alpha, ..., alpha); return logarithms, shape (draws, classes).

    NumPy's draw underflows at small alpha, and a class that every client drew as 0
    could not be divided. The logarithms are finite at every alpha.
    """
    shape = (draws, classes)
    # Gamma(alpha) is Gamma(alpha + 1) * U^(1 / alpha), and -log U is exponential. Below
    # 1e-300 the quotient could overflow; a draw has a single class long before that.
    logs = np.log(rng.standard_gamma(alpha + 1, shape))
    logs -= rng.standard_exponential(shape) / max(alpha, 1e-300)
    return np.asarray(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))

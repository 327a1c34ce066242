"""Examples: rows of a data set, and how a batch of them becomes model inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Batch = dict[str, torch.Tensor]
"""Model inputs by name, including ``labels``."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Some rows of a data set.

    Attributes
    ----------
    table : Any
        ``table[rows]`` returns the columns of a list of row numbers.
    rows : NDArray[np.int64], shape (n,)
        The row numbers of these examples.
    collate : Callable[[Mapping[str, Any], bool], Batch]
        Turns columns into model inputs; the flag is true in training.
    """

    table: Any
    rows: NDArray[np.int64]
    collate: Callable[[Mapping[str, Any], bool], Batch]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Examples:
        """Return examples from model inputs, one example per row."""
        count = len(next(iter(tensors.values())))
        return cls(_Tensors(tensors), np.arange(count), lambda batch, _: dict(batch))

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: Sequence[int] | NDArray[Any]) -> Examples:
        """Return some of these examples."""
        rows = self.rows[np.asarray(chosen, np.int64)]
        return Examples(self.table, rows, self.collate)

    def subsample(self, count: int, seed: int) -> Examples:
        """Return `count` of these examples, drawn with a seed; 0 returns all."""
        if count == 0 or count >= len(self):
            return self
        drawn = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.select(np.sort(drawn))

    def batch(self, chosen: torch.Tensor, *, training: bool = False) -> Batch:
        """Return the inputs for some of these examples."""
        rows = self.rows[chosen.numpy()].tolist()
        return self.collate(self.table[rows], training)


class _Tensors:
    """Tensors with equal first dimensions, as a table."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, rows: list[int]) -> Batch:
        return {name: tensor[rows] for name, tensor in self._tensors.items()}

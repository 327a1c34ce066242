"""Test rows that clients train on: the accuracy on them says little."""

from __future__ import annotations

from collections.abc import Iterator
from logging import WARNING

import pyarrow as pa
from datasets import Dataset

from flasc_flwr.flower.compat import log

_TOKENS = "input_ids"


def say_shared_rows(train: Dataset, test: Dataset) -> None:
    """Log how many test rows have the tokens of a training row.

    A few are usual, as people write the same short texts; many make a test too easy.

    Parameters
    ----------
    train, test : Dataset
        Prepared rows; nothing is done where they are not texts.
    """
    if _TOKENS not in train.column_names or _TOKENS not in test.column_names:
        return
    known = {hash(row) for row in _rows(train)}
    shared = sum(hash(row) in known for row in _rows(test))
    if shared:
        log(
            WARNING,
            "%d of %d test rows are the same text as a training row",
            shared,
            len(test),
        )


def _rows(rows: Dataset) -> Iterator[bytes]:
    """Yield the tokens of each row as bytes."""
    for table in rows.select_columns(_TOKENS).with_format("arrow").iter(1000):
        lists = table.column(_TOKENS).combine_chunks()
        values = lists.values.cast(pa.int64()).to_numpy()
        ends = lists.offsets.to_numpy()
        for start, end in zip(ends, ends[1:], strict=False):
            yield values[start:end].tobytes()

"""Test rows that clients train on: the accuracy on them says little."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from logging import WARNING

import pyarrow as pa
from datasets import Dataset, ReadInstruction

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


def say_shared_slices(train: str, test: str, length_of: Callable[[str], int]) -> None:
    """Log how many test rows are training rows because their slices overlap.

    Unlike equal rows, which a data set may well have, these can be of any kind.

    Parameters
    ----------
    train, test : str
        Splits or slices, such as ``train[:80%]``.
    length_of : Callable[[str], int]
        Number of rows of a split, by its name.
    """
    names = [{p.partition("[")[0] for p in s.split("+")} for s in (train, test)]
    if not names[0] & names[1]:
        return
    lengths = {name: length_of(name) for name in names[0] | names[1]}
    # A slice that cannot be read is an error where its rows are loaded.
    with suppress(ValueError, AssertionError):
        trained, tested = _places(train, lengths), _places(test, lengths)
        if shared := len(trained & tested):
            log(
                WARNING,
                "%d of %d test rows are training rows: test-split %r and train-split "
                "%r overlap",
                shared,
                len(tested),
                test,
                train,
            )


def _places(split: str, lengths: dict[str, int]) -> set[tuple[str, int]]:
    """Return the rows of a slice, each by its split and number."""
    parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    return {
        (part.splitname, row)
        for part in parts
        for row in range(lengths[part.splitname])[part.from_ : part.to]
    }


def _rows(rows: Dataset) -> Iterator[bytes]:
    """Yield the tokens of each row as bytes."""
    for table in rows.select_columns(_TOKENS).with_format("arrow").iter(1000):
        lists = table.column(_TOKENS).combine_chunks()
        values = lists.values.cast(pa.int64()).to_numpy()
        ends = lists.offsets.to_numpy()
        for start, end in zip(ends, ends[1:], strict=False):
            yield values[start:end].tobytes()

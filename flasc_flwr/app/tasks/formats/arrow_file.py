"""Parquet and Arrow files, which say what their values are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flasc_flwr.app.tasks.data_errors import DataError

_FEATURES = b"huggingface"
"""Key under which `datasets` stores class names and images in a schema."""


def schema(file: Path) -> pa.Schema:
    """Return the columns of a file; categories of text are text.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    with _damage(file):
        found = pq.read_schema(file) if _is_parquet(file) else _reader(file).schema
    stored = {k: v for k, v in (found.metadata or {}).items() if k == _FEATURES}
    columns = [(field.name, _plain(field.type)) for field in found]
    return pa.schema(columns, metadata=stored or None)


def tables(file: Path, rows_at_once: int) -> Iterator[pa.Table]:
    """Yield the rows of a file.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    with _damage(file):
        for batch in _batches(file, rows_at_once):
            yield pa.Table.from_batches([batch])


def _batches(file: Path, rows_at_once: int) -> Iterator[pa.RecordBatch]:
    if _is_parquet(file):
        yield from pq.ParquetFile(file).iter_batches(rows_at_once)
        return
    reader = _reader(file)
    if isinstance(reader, pa.ipc.RecordBatchStreamReader):
        yield from reader
    else:
        yield from map(reader.get_batch, range(reader.num_record_batches))


def _reader(file: Path) -> Any:
    """Open either of the two formats of Arrow files; `save_to_disk` writes streams."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(file)))
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(str(file)))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if kind == pa.string_view():
        return pa.string()
    return pa.binary() if kind == pa.binary_view() else kind


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, NotImplementedError) as error:
        raise DataError(
            f"data file {file.name!r} must be a whole {file.suffix.lower()} file, got "
            "one that cannot be read",
            str(error),
        ) from None

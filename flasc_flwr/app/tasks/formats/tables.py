"""Files of one split as one table, kept in the cache of `datasets`.

The loaders of `datasets` are those of pandas and Arrow, which guess: a row of a CSV
file with too many fields gets an index, the words ``null``, ``None`` and ``NA`` become
empty cells, ``007`` becomes 7, and a path with brackets is a pattern. The cache is
theirs; the reading is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features

from flasc_flwr.app.tasks.data_errors import DataError
from flasc_flwr.app.tasks.formats import arrow_file, csv_file, json_file
from flasc_flwr.app.tasks.formats.cells import common_type

FORMATS: dict[str, Any] = {
    ".parquet": arrow_file,
    ".csv": csv_file,
    ".jsonl": json_file,
    ".json": json_file,
    ".arrow": arrow_file,
}
"""The module that reads files with a suffix."""

_ROWS_AT_ONCE = 10_000
_VERSION = 1
"""Of the reading: another one reads all files again."""


def read_tables(files: Sequence[Path]) -> Dataset:
    """Return the rows of files of one format, in the order of the files.

    They are kept in the cache of `datasets`, by the files and their state, so that
    other processes and what is computed from them find them there.

    Raises
    ------
    DataError
        If a file cannot be read, the files do not belong together, or there is no row.
    """
    states = [(str(f), s.st_size, s.st_mtime_ns) for f in files for s in [_opened(f)]]
    key = sha256(repr((_VERSION, states)).encode()).hexdigest()
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "flasc-flwr" / f"{key}.arrow"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cached.parent) as folder:
            whole = _written(files, Path(folder) / "rows")
            # The first of several processes wins: its file may be in use.
            if not cached.exists():
                whole.rename(cached)
    return Dataset.from_file(str(cached))


def _written(files: Sequence[Path], path: Path) -> Path:
    """Write the rows of files as an Arrow stream."""
    schema, count = schema_of(files), 0
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, schema) as to:
        for file in files:
            for table in tables_of(file, schema):
                to.write_table(table)
                count += len(table)
    if count == 0:
        raise DataError(
            f"data files must have rows, got none in {[file.name for file in files]}"
        )
    return path


def _opened(file: Path) -> os.stat_result:
    """Return a file's size and time, if it can be opened."""
    try:
        with file.open("rb") as stream:
            return os.fstat(stream.fileno())
    except OSError as error:
        raise DataError(
            f"data file {file.name!r} must be readable, got: {error.strerror}"
        ) from None


def schema_of(files: Sequence[Path]) -> pa.Schema:
    """Return the columns of files of one format, each with a type that fits all rows.

    Raises
    ------
    DataError
        If a file cannot be read, or the files do not belong together.
    """
    module = FORMATS[files[0].suffix.lower()]
    schemas = [module.schema(file) for file in files]
    first = schemas[0]
    types: dict[str, pa.DataType] = {}
    for file, schema in zip(files, schemas, strict=True):
        names = f"got others in {file.name!r} than in {files[0].name!r}"
        # A row of JSON may lack what is empty.
        if module is not json_file and {*schema.names} != {*first.names}:
            raise DataError(
                f"data files of one split must have the same columns, {names}",
                f"the columns are {', '.join(schema.names)}; {', '.join(first.names)}",
            )
        if schema.metadata != first.metadata:
            raise DataError(
                f"data files of one split must store the same class names, {names}"
            )
        for field in schema:
            types[field.name] = common_type(types.get(field.name), field.type)
    schema = pa.schema(list(types.items()), metadata=first.metadata)
    _require_known_types(schema)
    return schema


def _require_known_types(schema: pa.Schema) -> None:
    """Refuse types that `datasets` does not have."""
    for field in schema:
        try:
            Features.from_arrow_schema(pa.schema([field]))
        except (ValueError, NotImplementedError) as error:
            raise DataError(
                "data files must have columns of types that `datasets` has, got one of "
                f"{field.type}: leave it out",
                f"the column is {field.name!r}",
            ) from error


def tables_of(file: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a file as tables with the schema of :func:`schema_of`.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    module = FORMATS[file.suffix.lower()]
    if module is json_file:
        yield from json_file.tables(file, _ROWS_AT_ONCE, schema)
        return
    for table in module.tables(file, _ROWS_AT_ONCE):
        try:
            yield table.select(schema.names).cast(schema)
        except pa.ArrowException as error:
            raise DataError(
                "data files of one split must have the same types in a column, got "
                f"others in {file.name!r}",
                str(error),
            ) from None

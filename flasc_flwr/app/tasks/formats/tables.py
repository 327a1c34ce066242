"""Files of one split as one table, kept in the cache of `datasets`.

The loaders of `datasets` are those of pandas and Arrow, which guess: a row of a CSV
file with too many fields gets an index, the words ``null``, ``None`` and ``NA`` become
empty cells, ``007`` becomes 7, and a path with brackets is a pattern. The cache is
theirs; the reading is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import (
    ArrowBasedBuilder,
    BuilderConfig,
    Dataset,
    DatasetInfo,
    Features,
    SplitGenerator,
    Version,
)
from datasets.exceptions import DatasetGenerationError

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


def read_tables(files: Sequence[Path]) -> Dataset:
    """Return the rows of files of one format, in the order of the files.

    Raises
    ------
    DataError
        If a file cannot be read, the files do not belong together, or there is no row.
    """
    states = [_opened(file) for file in files]
    builder = _CachedTables(
        dataset_name="files",
        files=tuple(str(file) for file in files),
        states=tuple((state.st_size, state.st_mtime_ns) for state in states),
    )
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise DataError(
            f"data files {[file.name for file in files]} cannot be read: "
            f"{type(error.__cause__ or error).__name__}",
            str(error.__cause__ or error),
        ) from error
    if builder.info.splits["train"].num_examples == 0:
        raise DataError(
            f"data files must have rows, got none in {[file.name for file in files]}"
        )
    rows: Dataset = builder.as_dataset(split="train")
    return rows


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
    return pa.schema(list(types.items()), metadata=first.metadata)


def _features(schema: pa.Schema) -> Features:
    """Return the columns as `datasets` describes them: classes, images, types."""
    for field in schema:
        try:
            Features.from_arrow_schema(pa.schema([field]))
        except (ValueError, NotImplementedError) as error:
            raise DataError(
                "data files must have columns of types that `datasets` has, got one of "
                f"{field.type}: leave it out",
                f"the column is {field.name!r}",
            ) from error
    return Features.from_arrow_schema(schema)


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


@dataclass
class _Files(BuilderConfig):  # type: ignore[misc]
    """The files, and what changes when they are written: the key of the cache."""

    files: tuple[str, ...] = ()
    states: tuple[tuple[int, int], ...] = ()


class _CachedTables(ArrowBasedBuilder):  # type: ignore[misc]
    BUILDER_CONFIG_CLASS = _Files
    VERSION = Version("1.0.0")  # of the reading: another one makes caches anew

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        files = [Path(file) for file in self.config.files]
        schema = schema_of(files)
        self.info.features = _features(schema)
        arguments = {"files": files, "schema": schema}
        return [SplitGenerator(name="train", gen_kwargs=arguments)]

    def _generate_tables(
        self, files: list[Path], schema: pa.Schema
    ) -> Iterator[tuple[str, pa.Table]]:
        for number, file in enumerate(files):
            for part, table in enumerate(tables_of(file, schema)):
                yield f"{number}-{part}", table

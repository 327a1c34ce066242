"""Class labels: how many classes there are, and their numbers.

Names decide where there are any, whatever type the labels have in the file: the class
of ``1`` is the place of the name "1". Only without names, integers are class numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Sequence, Value

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.config.names import names_of
from flasc_flwr.app.tasks.data_errors import DataError, cell, kind_of
from flasc_flwr.app.tasks.formats.cells import text_of
from flasc_flwr.app.tasks.sources import load_rows, require_columns

_INTEGER = re.compile("-?(0|[1-9][0-9]*)")


def class_count(config: RunConfig) -> int:
    """Return the number of classes: as configured, or counted in the training rows.

    Raises
    ------
    DataError
        If the column is missing, or its classes are neither numbers nor named, or
        there are fewer than two, or so many that they are rather something else.
    """
    names = class_names(config)
    if names and config.classes not in (0, len(names)):
        raise ValueError(
            f"classes must be 0 or the number of class-names, {len(names)}, got "
            f"{config.classes}"
        )
    if len({text_of(name) for name in names}) < len(names):
        raise ValueError(
            "class-names must be different also as numbers (1 is 1.0), got "
            f"{config.class_names!r}"
        )
    count = len(names) or config.classes or _counted(config)
    if count < 2 and not config.multi_label:
        raise DataError(f"a run must have at least 2 classes, got {count}")
    return count


def _counted(config: RunConfig) -> int:
    rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    column = config.label_column
    require_columns(rows, {"label-column": column})
    known = names_in_data(rows, column)
    if known:
        return len(known)
    labels = _Labels(column, {}, None).numbers(rows[column][:])
    numbers = {n for row in labels for n in (row if isinstance(row, list) else [row])}
    if not numbers:
        raise DataError(
            f"dataset must have classes in its training split, got {config.dataset!r}"
        )
    count = max(numbers) + 1
    largest = f"the largest label is {count - 1}"
    if count > 2 * len(numbers) + _SPARE:
        raise DataError(
            f"label-column {column!r} must have integers from 0 to the number of "
            f"classes - 1, got {len(numbers)} different labels, the largest above "
            "twice that: set class-names to all labels, or classes to their number",
            largest,
        )
    if count > config.max_classes:
        raise DataError(
            f"label-column {column!r} must have at most {config.max_classes} classes "
            f"(max-classes), got {len(numbers)} different labels: set another "
            "label-column, or classes, or max-classes",
            largest,
        )
    return int(count)


_SPARE = 10
"""A few rows may lack most classes."""


def class_names(config: RunConfig) -> list[str]:
    """Return the configured names of the classes in order; may be empty."""
    return names_of(config.class_names)


def names_in_data(rows: Dataset, column: str) -> list[str] | None:
    """Return the class names stored in the data, in its order; None without names."""
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def number_labels(
    rows: Dataset, config: RunConfig, classes: int, *, several: bool
) -> Dataset:
    """Return rows with classes as numbers, in the order of ``class-names`` if set.

    Parameters
    ----------
    rows : Dataset
        The data.
    config : RunConfig
        The names, and the column with the classes.
    classes : int
        Number of classes.
    several : bool
        Whether each row has a list of classes.

    Raises
    ------
    DataError
        If a label is not one of the names or, without names, not an integer in range;
        the message has the first such row, and never the label.
    """
    column = config.label_column
    names = {str(text_of(n)): i for i, n in enumerate(class_names(config))}
    known = names_in_data(rows, column)
    labels = _Labels(column, names, known, classes, several)
    numbers = labels.numbers(rows[column][:])
    kind = getattr(rows.features[column], "dtype", "")
    if not names and not several and kind.startswith("int"):
        return rows  # memory-mapped, as loaded
    numbered = rows.remove_columns(column).add_column(column, numbers)
    number = Value("int64")
    return numbered.cast_column(column, Sequence(number) if several else number)


class _Problem(NamedTuple):
    """What is wrong with a label, and what to do."""

    got: str
    remedy: str


@dataclass(frozen=True)
class _Labels:
    """The labels of a column.

    Attributes
    ----------
    column : str
        Its name.
    names : Mapping[str, int]
        Number of each configured name, if any, as :func:`text_of` writes it.
    known : list[str] or None
        Names stored in the data, which its integers stand for.
    classes : int or None
        How many classes there are, if known.
    several : bool or None
        Whether each row has a list of classes, if known.
    """

    column: str
    names: Mapping[str, int]
    known: list[str] | None
    classes: int | None = None
    several: bool | None = None

    def numbers(self, labels: Any) -> list[Any]:
        """Return the number of each label, or the list of each row's."""
        if _are_flags(labels):
            raise DataError(
                f"label-column {self.column!r} must be a list of each row's classes, "
                "got a 0 or 1 for each class: write [0, 2] for [1, 0, 1]"
            )
        seen: dict[Any, int] = {}
        result: list[Any] = []
        for row, label in enumerate(labels):
            many = isinstance(label, list)
            if self.several not in (None, many):
                raise self._error(row, _Problem(kind_of(label), _MULTI_LABEL))
            found = []
            for one in label if many else [label]:
                # 1, 1.0 and True are equal, but not the same label.
                key = (type(one), one) if isinstance(one, _PLAIN) else None
                if key is None or key not in seen:
                    number = self._number(one)
                    if isinstance(number, _Problem):
                        raise self._error(row, number)
                    seen[key] = number
                found.append(seen[key])
            result.append(found if many else found[0])
        return result

    def _number(self, label: Any) -> int | _Problem:
        if self.known is not None and isinstance(label, int):
            if not 0 <= label < len(self.known):
                return _Problem("no class", _EMPTY)
            label = self.known[label] if self.names else label
        try:
            text = text_of(label)
        except TypeError:
            return _Problem(kind_of(label), _NAMES)
        if text is None:
            return _Problem(kind_of(label), _EMPTY)
        if self.names:
            other = _Problem(f"{kind_of(label)} that is not one of them", _FIX)
            return self.names.get(text, other)
        if not _INTEGER.fullmatch(text):
            return _Problem(kind_of(label), _NAMES)
        number = int(text)
        if number < 0:
            return _Problem("an integer below 0", _NAMES)
        if self.classes is not None and number >= self.classes:
            return _Problem(f"an integer above {self.classes - 1}", _CLASSES)
        return number

    def _error(self, row: int, problem: _Problem) -> DataError:
        many = "a list of" if self.several else "one of"
        if self.names:
            first = ", ".join(list(self.names)[:_SHOWN])
            more = ", ..." if len(self.names) > _SHOWN else ""
            allowed = f"class-names ({first}{more})"
        elif self.classes is None:
            allowed = "the integers from 0"
        else:
            allowed = f"the integers 0 to {self.classes - 1}"
        return DataError(
            f"{cell(row, 'label-column', self.column)} must be {many} {allowed}, got "
            f"{problem.got}: {problem.remedy}"
        )


def _are_flags(labels: Iterable[Any]) -> bool:
    """Whether rows have a 0 or 1 for each class, which would be taken for classes."""
    seen: set[tuple[str | None, ...]] = set()
    for row in labels:
        if not isinstance(row, list) or not all(
            isinstance(one, _PLAIN) and text_of(one) in _FLAGS for one in row
        ):
            return False
        seen.add(tuple(map(text_of, row)))
    lengths = {len(row) for row in seen}
    if len(lengths) != 1 or lengths <= {0, 1}:
        return False
    # All rows of a device may well have the same two classes.
    return len(seen) > 1 or any(len(set(row)) < len(row) for row in seen)


_FLAGS = ("0", "1", "false", "true")
_PLAIN = (int, float, str)
_SHOWN = 10
_EMPTY = "every row needs a class"
_FIX = "fix the data or class-names"
_CLASSES = "fix the data, or set classes or class-names"
_MULTI_LABEL = "multi-label = true is for lists of classes, false for one class"
_NAMES = (
    "set class-names to all labels in order, such as 'good,bad', 'false,true' or "
    '\'["a, b", "c"]\''
)

"""The walk through the stages: which class each entry is in, and where entries lie."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.step.classes import ClassStream
from flasc_flwr.core.codec.step.contexts import CLASSES, Contexts, Places
from flasc_flwr.core.codec.step.shapes import Shapes
from flasc_flwr.core.layout import chunks
from flasc_flwr.core.sparsity import Positions

_RUN = 1 << 13
"""So many entries are placed at once: the memory for more would be many times N."""

Order = NDArray[np.signedinteger[Any]]
"""Which entries, as numbers of 32 bits where these are enough."""


def narrowest(size: int) -> type[np.signedinteger[Any]]:
    """Return the narrowest type for which entries of a vector of length N."""
    return np.int32 if size < 1 << 31 else np.int64


def classify(
    contexts: Contexts,
    shapes: Shapes,
    positions: Positions,
    levels: NDArray[np.int32],
) -> tuple[list[int], list[Order], list[Order]]:
    """Return for each class its size, which entries are not zero, and which those are.

    The last as indices into `positions`.
    """
    entries, units, ends = _in_stages(contexts, shapes, positions)
    kind = entries.dtype
    sizes = np.zeros(CLASSES, np.int64)
    ranks: list[list[Order]] = [[np.zeros(0, kind)] for _ in range(CLASSES)]
    order: list[list[Order]] = [[np.zeros(0, kind)] for _ in range(CLASSES)]
    for stage, start, classes in _runs(contexts):
        here = slice(ends[stage], ends[stage + 1])
        first, last = np.searchsorted(units[here], [start, start + len(classes)])
        here = slice(ends[stage] + first, ends[stage] + last)
        kept, own_units = entries[here], units[here] - start
        own = classes[own_units]
        by_class, bounds = _grouped(classes)
        rank = np.empty(len(classes), np.uint32)
        rank[by_class] = np.arange(len(classes), dtype=np.uint32)
        found = rank[own_units] + (sizes - bounds[:-1])[own]
        groups, cuts = _grouped(own)
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            group = groups[cuts[number] : cuts[number + 1]]
            ranks[number].append(found[group].astype(kind))
            order[number].append(kept[group])
        sizes += np.diff(bounds)
        contexts.learn(units[here], levels[kept])
    return sizes.tolist(), _joined(ranks), _joined(order)


def _in_stages(
    contexts: Contexts, shapes: Shapes, positions: Positions
) -> tuple[Order, Order, list[int]]:
    """Return entries in the order of the stages, which is not that of the vector.

    Which of `positions` they are, which entries of their stages, and where each stage
    begins; the last one ends where another would.
    """
    kind = narrowest(int(shapes.sizes.sum()))
    units = np.empty(len(positions), kind)
    # The shorter axis of a tensor of 2**22 entries; numpy counts 16 bits, and would
    # compare 32.
    stages = np.empty(len(positions), np.uint16)
    counts = np.zeros(contexts.stages, np.int64)
    for chunk in chunks(len(positions)):
        places = Places.of(shapes, positions[chunk])
        units[chunk], stages[chunk] = contexts.of_stage(places), places.rows
        counts += np.bincount(places.rows, minlength=len(counts))
    entries = np.argsort(stages, kind="stable").astype(kind)
    units = units[entries]
    ends = [0, *np.cumsum(counts).tolist()]
    for here in map(slice, ends, ends[1:]):
        within = np.argsort(units[here], kind="stable")
        entries[here], units[here] = entries[here][within], units[here][within]
    return entries, units, ends


def _joined(parts: list[list[Order]]) -> list[Order]:
    """Join the parts of each class, and empty the list on the way."""
    return [np.concatenate(parts.pop(0)) for _ in range(len(parts))]


def _runs(contexts: Contexts) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Yield the classes stage by stage: the stage, where in it they begin, and classes.

    A long stage is divided, so that temporaries stay small. What is learned of an entry
    does not change the classes of its own stage.
    """
    for stage in range(contexts.stages):
        classes = contexts.classes(stage)
        for run in chunks(len(classes)):
            yield stage, run.start, classes[run]


def _grouped(classes: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return the entries of class 0, in order, then those of class 1, and so on.

    And where each class begins; the last class ends where class `CLASSES` would.
    """
    by_class = np.argsort(classes, kind="stable")
    every = np.arange(CLASSES + 1, dtype=np.uint8)
    return by_class, np.searchsorted(classes[by_class], every)


def place(
    contexts: Contexts,
    streams: list[ClassStream],
    ranks: list[Order],
    levels: NDArray[np.int32],
    size: int,
) -> Order:
    """Return where the entries of the classes lie in a vector of length N.

    Class by class.

    Raises
    ------
    PayloadError
        If a class has other entries than were coded.
    """
    positions = np.empty(len(levels), narrowest(size))
    first = np.cumsum([0, *map(len, ranks)])
    passed, placed = [0] * len(streams), [0] * len(streams)
    for stage, start, classes in _runs(contexts):
        by_class, bounds = _grouped(classes)
        by_class += start
        starts = bounds.tolist()
        found: list[tuple[slice, NDArray[np.int64]]] = []
        for i, stream in enumerate(streams):
            begin = passed[i]
            own = by_class[starts[stream.number] : starts[stream.number + 1]]
            passed[i] = end = begin + len(own)
            if placed[i] == len(ranks[i]) or ranks[i][placed[i]] >= end:
                continue
            last = bisect_left(ranks[i], end, placed[i])
            for at in range(placed[i], last, _RUN):
                run = slice(at, min(at + _RUN, last))
                part = slice(int(first[i]) + run.start, int(first[i]) + run.stop)
                found.append((part, own[ranks[i][run] - begin]))
                if sum(len(which) for _, which in found) >= _RUN:
                    _settle(contexts, stage, found, levels, positions)
                    found = []
            placed[i] = last
        if found:
            _settle(contexts, stage, found, levels, positions)
    for i, stream in enumerate(streams):
        if placed[i] < len(ranks[i]) or (stream.dense and stream.count != passed[i]):
            raise PayloadError(
                f"class {stream.number}: it has {passed[i]} entries, fewer or more "
                "than were coded"
            )
    return positions


def _settle(
    contexts: Contexts,
    stage: int,
    found: list[tuple[slice, NDArray[np.int64]]],
    levels: NDArray[np.int32],
    positions: Order,
) -> None:
    """Write the positions of some of a stage's entries, and learn their levels.

    `found` are slices of `levels` and `positions`, and which entries those are. All at
    once, as numpy takes as long for one operation on few entries as on many.
    """
    which = np.concatenate([own for _, own in found])
    contexts.learn(which, np.concatenate([levels[place] for place, _ in found]))
    where, at = contexts.positions(stage, which), 0
    for place, own in found:
        positions[place] = where[at : at + len(own)]
        at += len(own)

"""The walk through the stages: which class each entry is in, and where entries lie."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.step.classes import ClassStream
from flasc_flwr.core.codec.step.contexts import CLASSES, Contexts, Places
from flasc_flwr.core.sparsity import Positions

_RUN = 1 << 13
"""So many entries are placed at once: the memory for more would be many times N."""

Order = NDArray[np.int64]


def classify(
    contexts: Contexts, places: Places, levels: NDArray[np.int64]
) -> tuple[list[int], list[NDArray[np.int64]], list[Order]]:
    """Return for each class its size, which entries are not zero, and which those are.

    The last as indices into `places`.
    """
    which = contexts.of_stage(places)
    # The shorter axis of a tensor of 2**22 entries; numpy counts 16 bits, and would
    # compare 32.
    by_stage = np.argsort(places.rows.astype(np.uint16), kind="stable")
    ends = np.searchsorted(places.rows[by_stage], np.arange(contexts.stages + 1))
    sizes = np.zeros(CLASSES, np.int64)
    ranks: list[list[NDArray[np.int64]]] = [[] for _ in range(CLASSES)]
    order: list[list[Order]] = [[] for _ in range(CLASSES)]
    for stage in range(contexts.stages):
        classes = contexts.classes(stage)
        # In the order of the stage, which is not that of the vector.
        kept = by_stage[ends[stage] : ends[stage + 1]]
        kept = kept[np.argsort(which[kept], kind="stable")]
        units = which[kept]
        own = classes[units]
        by_class, bounds = _grouped(classes)
        rank = np.empty(len(classes), np.uint32)
        rank[by_class] = np.arange(len(classes), dtype=np.uint32)
        found = rank[units] + (sizes - bounds[:-1])[own]
        groups, cuts = _grouped(own)
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            group = groups[cuts[number] : cuts[number + 1]]
            ranks[number].append(found[group])
            order[number].append(kept[group])
        sizes += np.diff(bounds)
        contexts.learn(units, levels[kept])
    none = np.zeros(0, np.int64)
    return (
        sizes.tolist(),
        [np.concatenate([none, *parts]) for parts in ranks],
        [np.concatenate([none, *parts]) for parts in order],
    )


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
    ranks: list[NDArray[np.int64]],
    levels: NDArray[np.int64],
) -> Positions:
    """Return where the entries of the classes lie, class by class.

    Raises
    ------
    PayloadError
        If a class has other entries than were coded.
    """
    positions = np.empty(len(levels), np.int64)
    first = np.cumsum([0, *map(len, ranks)])
    passed, placed = [0] * len(streams), [0] * len(streams)
    for stage in range(contexts.stages):
        by_class, bounds = _grouped(contexts.classes(stage))
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
    levels: NDArray[np.int64],
    positions: Positions,
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

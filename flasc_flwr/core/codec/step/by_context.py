"""Levels by context: entries coded in classes that follow from earlier entries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flasc_flwr.core.codec.bits import (
    Reader,
    pack,
    packed_length,
    unpack,
    varint,
)
from flasc_flwr.core.codec.entropy import decode_symbols, encode_symbols
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.frequencies import (
    Counts,
    compact_table,
    read_compact_table,
    stacked,
)
from flasc_flwr.core.codec.step.classes import (
    ClassStream,
    gap_bytes,
    make_streams,
    read_ranks,
    read_rows,
    rows_bytes,
)
from flasc_flwr.core.codec.step.contexts import (
    MOST_FACTOR,
    PRIORS,
    Contexts,
    choose,
)
from flasc_flwr.core.codec.step.shapes import Shapes
from flasc_flwr.core.codec.step.stages import Order, classify, narrowest, place
from flasc_flwr.core.codec.step.symbols import (
    SYMBOLS,
    read_levels,
    require_symbols,
    symbols_of,
)
from flasc_flwr.core.sparsity import Positions

_PRIOR_BITS = 5


def encode_levels(
    positions: Positions, levels: NDArray[np.int32], shapes: Shapes
) -> tuple[bytes, Order]:
    """Code where a vector's levels are not zero, and the levels there.

    Parameters
    ----------
    positions : NDArray[np.int64], shape (k,)
        The support, ascending; at least one entry.
    levels : NDArray[np.int32], shape (k,)
        The levels, at least 1.
    shapes : Shapes
        The tensors of the vector.

    Returns
    -------
    sections : bytes
        All that is coded.
    order : integers, shape (k,)
        The entries in the order of the code, as indices into `positions`.
    """
    priors, factors = choose(shapes, positions, levels)
    contexts = Contexts(shapes, priors, factors)
    sizes, ranks, order = classify(contexts, shapes, positions, levels)
    streams = make_streams(sizes, ranks, [levels[own] for own in order])
    every = np.concatenate(order)
    factor_table = compact_table(np.bincount(factors))
    tables = _tables(streams)
    unary, low = gap_bytes(streams)
    symbols = np.concatenate(
        [factors.astype(np.uint16), *(stream.symbols for stream in streams)]
    )
    coded = encode_symbols(
        symbols, _stack(factor_table, tables), _which(len(factors), streams)
    )
    shape_bytes = shapes.to_bytes()
    sections = (
        varint(len(shape_bytes)), shape_bytes,
        pack(priors.astype(np.uint8), _PRIOR_BITS),
        rows_bytes(streams), factor_table, *tables,
        varint(len(unary)), unary, low,
        varint(len(coded)), coded,
        symbols_of(levels[every])[1],
    )  # fmt: skip
    return b"".join(sections), every


def decode_levels(reader: Reader, size: int) -> tuple[Order, NDArray[np.int32]]:
    """Read what :func:`encode_levels` coded.

    Returns
    -------
    positions, levels : integers, shape (k,)
        The entries in the order of the code, not ascending.

    Raises
    ------
    PayloadError
        If it is corrupt.
    """
    shapes = Shapes.from_bytes(reader.take(reader.varint("shapes"), "shapes"), size)
    count = len(shapes.rows)
    data = reader.take(packed_length(count, _PRIOR_BITS), "priors")
    priors = unpack(data, count, _PRIOR_BITS, "priors").astype(np.int64)
    if priors.max(initial=0) >= PRIORS:
        raise PayloadError(f"priors: one is not below {PRIORS}")
    rows = int(shapes.rows[priors > 0].sum())
    entries = int(shapes.sizes[priors > 0].sum())
    streams = read_rows(reader, entries)
    factor_table = read_compact_table(reader, "factors")
    if len(factor_table) > MOST_FACTOR + 1:
        raise PayloadError(f"factors: one is above {MOST_FACTOR}")
    tables = [
        read_compact_table(reader, f"levels of class {stream.number}")
        for stream in streams
        if stream.own_table
    ]
    unary_length = reader.varint("gaps")
    ranks = read_ranks(reader, streams, unary_length, entries)
    coded = reader.take(reader.varint("symbols"), "symbols")
    total = rows + sum(stream.count for stream in streams)
    symbols = decode_symbols(
        coded, total, stacked([factor_table, *tables]), _which(rows, streams)
    )
    factors, symbols = symbols[:rows].astype(np.int64), symbols[rows:]
    require_symbols(symbols)
    ranks, nonzero = _nonzero(streams, ranks, symbols, narrowest(entries))
    levels = read_levels(reader, nonzero)
    contexts = Contexts(shapes, priors, factors)
    return place(contexts, streams, ranks, levels, size), levels


def _nonzero(
    streams: list[ClassStream],
    ranks: list[Order],
    symbols: NDArray[np.uint16],
    kind: type[np.signedinteger[Any]],
) -> tuple[list[Order], NDArray[np.uint16]]:
    """Return which entries of each class are not zero, and their symbols."""
    found, kept, at = [], [], 0
    for stream, rank in zip(streams, ranks, strict=True):
        own = symbols[at : at + stream.count]
        at += stream.count
        if stream.dense:
            rank = np.flatnonzero(own).astype(kind)
            own = own[rank]
        elif not own.all():
            raise PayloadError(f"class {stream.number}: a level is zero")
        found.append(rank.astype(kind, copy=False))
        kept.append(own)
    return found, np.concatenate(kept) if kept else symbols


def _tables(streams: list[ClassStream]) -> list[bytes]:
    """Return the tables of the levels: one for each class with one of its own."""
    counts: list[Counts] = []
    for stream in streams:
        own = np.bincount(stream.symbols, minlength=SYMBOLS)
        if stream.own_table:
            counts.append(own)
        else:
            counts[-1] = counts[-1] + own
    return [compact_table(own) for own in counts]


def _stack(factor_table: bytes, tables: list[bytes]) -> Counts:
    return stacked([read_compact_table(Reader(t)) for t in (factor_table, *tables)])


def _which(factors: int, streams: list[ClassStream]) -> NDArray[np.uint8]:
    """Return the table of each symbol: 0 for factors, then those of the classes."""
    tables = np.cumsum([0, *(stream.own_table for stream in streams)], dtype=np.uint8)
    return np.repeat(tables, [factors, *(stream.count for stream in streams)])

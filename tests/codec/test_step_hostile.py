"""Payloads of the format ``step`` that someone built to break the decoder.

Each has a correct checksum, and sections that are right by themselves but not together,
or sizes that are as extreme as the format allows.
"""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from flasc_flwr.core.codec import PayloadError, decode
from flasc_flwr.core.codec.bits import Reader, pack, varint
from flasc_flwr.core.codec.entropy import encode_symbols
from flasc_flwr.core.codec.frequencies import (
    compact_table,
    read_compact_table,
)
from flasc_flwr.core.codec.header import Header, seal
from flasc_flwr.core.codec.step import body as step_body
from flasc_flwr.core.codec.step.body import encode_body
from flasc_flwr.core.codec.step.shapes import Shapes, most_tensors
from flasc_flwr.core.sparsity import SparseVector

from .crafted import NUMBER, Body, Class, deflated, gaps, ones, sized
from .test_step import layout_of

pytestmark = pytest.mark.filterwarnings("error")

BASE = 300_000
"""Bytes for the interpreter's objects, and some tensors, at any N."""


def test_what_is_crafted_right_is_decoded():
    dense = decode(Body(classes=ones(10)).payload(10), 10)
    assert dense.positions.tolist() == list(range(10))
    sparse = decode(Body(classes=gaps(2, 0, 5)).payload(10), 10)
    assert sparse.positions.tolist() == [2, 3, 9]
    assert decode(Body(priors=[0], factors=[]).payload(10), 10).kept == 0
    tall = Body([(5, 2)], factors=[0, 0], classes=ones(10))
    with pytest.raises(PayloadError, match="class 0: it has 5 entries"):
        decode(tall.payload(10), 10)


TWO = {"priors": [1, 1], "factors": [0, 0]}

CONTRADICTIONS = {
    "an empty tensor at the end": (Body([(1, 10), (0, 5)], **TWO), "of 0 entries"),
    "no columns at the end": (Body([(1, 10), (5, 0)], **TWO), "of 0 entries"),
    "one tensor too many": (Body([(1, 10), (1, 1)], **TWO), "of 1 entries, 0 are left"),
    "a tensor of 2^70": (Body([(2**35 - 1, 2**35 - 1)]), "shapes: a tensor of"),
    "too few entries": (Body([(3, 3)]), "9 of 10 entries"),
    "half a shape": (
        Body(replaced={"shapes": sized(deflated(b"\1"))}),
        "shapes: 1 bytes",
    ),
    "bytes after the shapes": (
        Body(replaced={"shapes": sized(deflated(b"\1\x0a") + b"\0")}),
        "not one deflated",
    ),
    "a zlib stream": (
        Body(replaced={"shapes": sized(zlib.compress(b"\1\x0a"))}),
        "shapes: ",
    ),
    "a prior of 30": (Body(priors=[30]), "priors"),
    "a factor of 10": (Body(factors=[10]), "factors"),
    "a class without entries": (Body(classes=(Class(0, [1], count=0),)), "0 levels"),
    "a class of a zero tensor": (
        Body(priors=[0], factors=[], classes=ones(1)),
        "1 levels of 0 entries",
    ),
    "two classes of all entries": (
        Body(classes=(*ones(10), *ones(10, 1))),
        "10 levels of 0 entries",
    ),
    "a count of 2^35": (Body(classes=(Class(0, [1], count=2**35 - 1),)), "levels of"),
    "the wrong class": (Body(classes=ones(10, 3)), "class 3: it has 0 entries"),
    "a dense class too short": (Body(classes=ones(9)), "class 0: it has 10 entries"),
    "a dense class with a width": (
        Body(classes=(Class(0, np.ones(10, int), width=1),)),
        "unknown flags",
    ),
    "the first class shares": (Body(classes=(Class(0, [1], flags=0),)), "share"),
    "a dense class shares a sparse one's": (
        Body(classes=(*gaps(0), Class(1, [1], flags=0))),
        "share",
    ),
    "an unknown flag": (Body(classes=(Class(0, [1], flags=192),)), "unknown flags"),
    "an entry beyond the class": (Body(classes=gaps(10)), "entry 10 of 10"),
    "a gap of 2^31": (
        Body(
            classes=(Class(0, [1], [0], width=31),),
            replaced={"gaps": sized(b"\1") + b"\xff" * 3 + b"\x7f"},
        ),
        "entry 2147483647 of 10",
    ),
    "a zero in a sparse class": (Body(classes=gaps(1, 1, symbols=[0, 1])), "is zero"),
    "a level of 25 bits": (Body(classes=gaps(0, symbols=[36])), "not below 36"),
    "level bits missing": (Body(classes=gaps(0, symbols=[35])), "low bits of levels"),
    "gaps of dense classes": (
        Body(classes=ones(10), replaced={"gaps": sized(b"\1")}),
        "gaps",
    ),
    "trailing bytes": (Body(classes=ones(10), end=b"\0"), "1 bytes are left over"),
    "a step that is not a number": (Body(step=np.nan, classes=ones(10)), "step"),
    "an infinite step": (Body(step=np.inf, classes=ones(10)), "step"),
    "a step of -1": (Body(step=-1.0, classes=ones(10)), "step"),
    "a step of 0": (Body(step=0.0, classes=ones(10)), "step"),
    "an unknown coding": (
        Body(replaced={"head": struct.pack("<f3sB", 1, bytes(3), 2)}),
        "unknown coding",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_sections_that_contradict_each_other_are_errors(case):
    body, message = CONTRADICTIONS[case]
    with pytest.raises(PayloadError, match=message):
        decode(body.payload(10), 10)


@pytest.mark.parametrize("step", [1e-45, 1e-38, 3.4e38])
def test_values_are_finite_at_any_step(step):
    highest = pack(np.full(1, 2**23 - 1, np.uint32), 23)
    body = Body(classes=gaps(0, 0, 0, symbols=[1, 2, 35]), step=step, levels=highest)
    sparse = decode(body.payload(10), 10)
    assert sparse.kept == 3 and np.isfinite(sparse.values).all()


def test_no_vector_of_no_entries_has_shapes():
    assert decode(Body([], [], []).payload(0), 0).kept == 0
    with pytest.raises(PayloadError, match="of 1 entries, 0 are left"):
        decode(Body([(1, 1)], [0], []).payload(0), 0)


def test_a_level_is_not_zero_by_block():
    head = struct.pack("<f3sB", 1, bytes([128] * 3), 0)
    blocks = bytes([1]) + varint(10)  # one full block
    table = compact_table(np.array([1, 9]))
    rows = read_compact_table(Reader(table))[None]
    for zeros in (0, 1):
        symbols = np.array([0] * zeros + [1] * (10 - zeros), np.uint16)
        rest = table + sized(encode_symbols(symbols, rows)) + bytes(2)
        payload = seal(Header(NUMBER, 10), head + blocks + rest)
        if zeros:
            with pytest.raises(PayloadError, match="levels: one is zero"):
                decode(payload, 10)
        else:
            assert decode(payload, 10).kept == 10


BOMB = {"shapes": sized(deflated(b"\1\1" * (1 << 22)))}
ROOT = 500
COUNT = ROOT * ROOT

EXTREMES = {
    "one row, dense": (COUNT, Body([(1, COUNT)], classes=ones(COUNT))),
    "one row, sparse": (
        COUNT,
        Body([(1, COUNT)], classes=(Class(0, [1] * COUNT, np.zeros(COUNT, int)),)),
    ),
    "one row of zeros": (
        COUNT,
        Body([(1, COUNT)], classes=(Class(0, np.zeros(COUNT, int)),)),
    ),
    "as many stages as columns": (
        COUNT,
        Body(
            [(ROOT, ROOT)],
            factors=[0] * ROOT,
            classes=(Class(0, np.zeros(COUNT, int)),),
        ),
    ),
    "as many tables as classes": (
        COUNT,
        Body(
            [(1, COUNT)],
            classes=(
                *(Class(i, [0, 1] * 8) for i in range(15)),
                Class(15, np.ones(COUNT - 240, int)),
            ),
        ),
    ),
    "all levels of 24 bits": (
        COUNT,
        Body(
            [(1, COUNT)],
            classes=(Class(0, np.full(COUNT, 35)),),
            levels=bytes(3 * COUNT - COUNT // 8),
        ),
    ),
    "tensors of one entry": (
        most_tensors(1024),
        Body(
            [(1, 1)] * most_tensors(1024),
            [1] * most_tensors(1024),
            [9] * most_tensors(1024),
            ones(most_tensors(1024), 4),
        ),
    ),
    "a small bomb": (0, Body(replaced=BOMB)),
    "a bomb": (COUNT, Body(replaced=BOMB)),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_extremes_take_a_small_multiple_of_the_memory(case):
    size, body = EXTREMES[case]
    payload = body.payload(size)
    tracemalloc.start()
    try:
        try:
            assert decode(payload, size).size == size
        except PayloadError as error:
            print(error)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{(peak) / 1e6:.1f} MB, {peak / (4 * size + len(payload)):.1f} x")
    assert peak <= 12 * (4 * size + len(payload)) + BASE


def test_too_many_tensors_are_one_row(monkeypatch):
    """What is computed for a tensor must not take more than its entries do."""
    size = most_tensors(2000) + 1
    shapes = Shapes.of(size, layout_of(*[(1, 1)] * size))
    assert shapes.rows.tolist() == [1] and shapes.widths.tolist() == [size]
    payload = Body([(1, 1)] * size, [0] * size, []).payload(size)
    with pytest.raises(PayloadError, match="tensors"):
        decode(payload, size)
    # As many as there may be are read, to the last.
    most = most_tensors(1024)
    layout = layout_of(*[(1, 1)] * most)
    assert len(Shapes.of(most, layout).rows) == most
    monkeypatch.setattr(step_body, "_MOST_BOTH_WAYS", 0)  # by context
    coded = encode_body(SparseVector.of_dense(np.ones(most, np.float32)), layout)
    assert coded[7] == 1
    assert decode(seal(Header(NUMBER, most), coded), most).kept == most

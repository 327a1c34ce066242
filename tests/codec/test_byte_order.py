"""Bytes are little-endian on every machine: no array crosses them in native order.

Payloads were compared under emulation of a big-endian and of a 32-bit machine
(s390x, armhf). This keeps the source as it was then.
"""

import ast
from pathlib import Path

import numpy as np
import pytest

from flasc_flwr.core import codec
from flasc_flwr.core.codec.bits import pack, pack_unary, unpack
from flasc_flwr.core.codec.entropy import encode_symbols
from flasc_flwr.core.codec.frequencies import compact_table, frequencies
from flasc_flwr.core.codec.positions import encode_positions

SOURCES = sorted(Path(codec.__file__).parent.rglob("*.py"))
# Names of dtypes with an explicit order; bytes have none.
EXPLICIT = {"np.uint8", "WORD", "STATE"}


def calls(source: str, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_bytes_are_read_with_an_explicit_order(path):
    source = path.read_text(encoding="utf-8")
    for call in calls(source, "frombuffer"):
        dtype = ast.unparse(call.args[1])
        assert dtype in EXPLICIT or dtype.strip("'").startswith("<")
    integers = [
        *calls(source, "to_bytes"),
        *(c for c in calls(source, "from_bytes") if ast.unparse(c.func.value) == "int"),
    ]
    for call in integers:
        if call.args:
            assert ast.unparse(call.args[1]) == "'little'"
    for call in calls(source, "Struct"):
        assert ast.unparse(call.args[0]).lstrip("f'").startswith("<")


def test_big_endian_arrays_give_the_same_bytes():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 1000, 100)
    for dtype in (">u2", ">u4", ">i8"):
        other = numbers.astype(dtype)
        for width in (10, 12, 16):
            packed = pack(numbers.astype(np.uint32), width)
            assert pack(other.astype(dtype), width) == packed
            unpacked = unpack(memoryview(packed), 100, width, "numbers")
            assert (unpacked == numbers).all()
        assert pack_unary(other) == pack_unary(numbers)
        assert compact_table(other[:40]) == compact_table(numbers[:40])
        table = frequencies(numbers[:40])
        symbols = rng.choice(40, 40_000, p=table / table.sum())
        native = encode_symbols(symbols.astype(np.uint16), table[None])
        assert native == encode_symbols(
            symbols.astype(dtype), table.astype(dtype)[None]
        )
    positions = np.cumsum(numbers + 1)
    bounds = [0, int(positions[-1]) + 1]
    swapped = encode_positions(positions.astype(">i8"), bounds)
    assert swapped.to_bytes() == encode_positions(positions, bounds).to_bytes()

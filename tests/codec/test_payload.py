import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from flasc_flwr.core.codec import (
    MOST_TENSORS,
    PayloadError,
    carried,
    decode,
    encode,
    read_layout,
    require_sendable,
)
from flasc_flwr.core.codec.bits import varint
from flasc_flwr.core.codec.blocks import block_bounds
from flasc_flwr.core.codec.formats import FORMATS
from flasc_flwr.core.codec.header import Header, seal
from flasc_flwr.core.codec.positions import encode_positions
from flasc_flwr.core.codec.values import Coding, encode_values
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from tests.payload_bytes import (
    CHECKSUM_AT,
    FLAGS_AT,
    FORMAT_AT,
    VERSION_AT,
    changed,
    resealed,
)

from .samples import GPT2_SIZE, gpt2_at_round_0, random_sparse, sparse_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "wire-format.md"

HEADER = 13
"""Bytes of a header with N from 128 to 16,383, and without a layout."""

EXAMPLE = sparse_of(
    100, [3, 4, 17, 30, 58, 59, 97], [0.5, -0.75, 1.0, -0.625, 1.5, 0.6875, -0.5]
)


def documented_bytes() -> bytes:
    """Return the hex digits of the example in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    match = re.search(r"<!-- example -->\n```\n(.*?)```", text, re.DOTALL)
    assert match
    digits = [
        re.match(r"(?:[0-9a-f]{2} +)+", line + " ") for line in match[1].splitlines()
    ]
    return bytes.fromhex("".join(found[0] for found in digits if found))


def test_the_documented_example_is_what_is_encoded():
    assert encode(EXAMPLE, "bfloat16") == documented_bytes()
    decoded = decode(documented_bytes(), 100)
    assert (decoded.positions == EXAMPLE.positions).all()
    assert (decoded.values == EXAMPLE.values).all()


def test_an_empty_vector_takes_18_bytes():
    payload = encode(sparse_of(300, [], []), "float32")
    assert len(payload) == HEADER + 3 + 2
    assert decode(payload, 300).kept == 0
    assert decode(encode(sparse_of(0, [], [])), 0).size == 0


def test_a_header_has_at_most_30_bytes():
    for size, most in ((100, 12), (10**7, 15), (2**64 - 1, 21)):
        header = Header(1, size)
        assert len(seal(header, b"")) <= most
        assert len(seal(Header(1, size, bytes(8)), b"")) <= most + 8


@pytest.mark.parametrize("density", [1 / 4, 1 / 16, 1 / 256])
def test_beside_the_streams_there_are_32_bytes_and_8_a_block(density):
    layout, _ = gpt2_at_round_0()
    rng = np.random.default_rng(0)
    for sparse, own in (
        (random_sparse(rng, GPT2_SIZE, density), None),
        (random_sparse(rng, GPT2_SIZE, density), layout),
        (random_sparse(rng, 7, density), None),
    ):
        payload = encode(sparse, "bfloat16", layout=own)
        coded = encode_positions(
            sparse.positions, block_bounds(sparse.positions, sparse.size, own)
        )
        bits = FORMATS[1].quantize(sparse.values, None)
        values = encode_values(bits.negative, bits.magnitudes)
        streams = (
            coded.bitmaps, coded.unary, coded.low,
            values.signs, values.low, values.frequencies, values.high,
        )  # fmt: skip
        assert len(coded.table) <= 8 * 4
        assert len(payload) - sum(map(len, streams)) - len(coded.table) <= 32


def test_a_download_carries_its_layout_and_an_upload_the_fingerprint():
    layout, vector = gpt2_at_round_0()
    sparse = random_sparse(np.random.default_rng(0), layout.size, 0.01)
    download = encode(sparse, layout=layout, carry_layout=True)
    upload = encode(sparse, layout=layout)
    assert read_layout(download) == layout
    assert 0 < len(download) - len(upload) < 1000
    for payload in (download, upload):
        decode(payload, layout.size, fingerprint=layout.fingerprint)
    with pytest.raises(PayloadError, match="carries no layout"):
        read_layout(upload)


def test_what_cannot_be_encoded():
    layout = Layout.of({"a": np.zeros(5, np.float32)})
    sparse = sparse_of(4, [1], [1.0])
    with pytest.raises(ValueError, match="value-format must be one of .*'int2'"):
        encode(sparse, "int2")
    with pytest.raises(ValueError, match="vector has 4 entries, its layout 5"):
        encode(sparse, layout=layout)
    with pytest.raises(ValueError, match="carry_layout needs a layout"):
        encode(sparse, carry_layout=True)
    with pytest.raises(ValueError, match="too large for bfloat16"):
        encode(sparse_of(4, [1], [3.4e38]), "bfloat16")
    for value in (np.inf, np.nan):
        with pytest.raises(ValueError, match="not all finite"):
            encode(sparse_of(4, [1], [value]))


PAYLOAD = encode(EXAMPLE, "bfloat16")
FLOAT32 = encode(EXAMPLE, "float32")
INT8 = encode(EXAMPLE, "int8")
# Kept are the same, so that everything up to the values lies at the same places.
SIZE, BODY, SPLIT = 11, 12, 21
ENTROPY = encode(
    sparse_of(100, list(range(100)), [2.0**i for i in range(10)] * 10), "bfloat16"
)


def with_base(base: bytes) -> bytes:
    return resealed(PAYLOAD[: SPLIT + 1] + base + PAYLOAD[SPLIT + 3 :])


def with_layout(length: bytes, carried: bytes) -> bytes:
    """Return a payload with a fingerprint and a layout."""
    start = PAYLOAD[:FLAGS_AT] + b"\x03" + bytes(4 + 8)
    return resealed(start + PAYLOAD[SIZE:BODY] + length + carried + PAYLOAD[BODY:])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, less than its header"),
        (PAYLOAD[:11], "11 bytes, less than its header"),
        (b"FLSX" + PAYLOAD[4:], "begins with b'FLSX'"),
        (changed(PAYLOAD, VERSION_AT, b"\x01"), "version 1, this is 3"),
        (PAYLOAD[:-1], "checksum"),
        (PAYLOAD[:20] + b"\xff" + PAYLOAD[21:], "checksum"),
        (PAYLOAD[:CHECKSUM_AT] + b"\0" + PAYLOAD[8:], "checksum"),
        (changed(PAYLOAD, FORMAT_AT, b"\xff"), "unknown value format 255"),
        (changed(PAYLOAD, FLAGS_AT, b"\x02"), "unknown flags 2"),
        (changed(PAYLOAD, FLAGS_AT, b"\x05"), "unknown flags 5"),
        (resealed(PAYLOAD[:6] + b"\x01" + PAYLOAD[7:13]), "layout fingerprint: 8"),
        (changed(PAYLOAD, SIZE, b"\x65"), "size 101, expected 100"),
        (changed(PAYLOAD, SIZE, b"\xff" * 12), "size: no number ends before"),
        (with_layout(b"\x00", b""), "layout: empty"),
        (with_layout(b"\xff\xff\xff\xff\x0f", b""), "layout: 4294967295 bytes"),
        (resealed(PAYLOAD + b"\x00"), "high bits of values: bytes follow"),
        (resealed(PAYLOAD[:-1]), "high bits of values: 4 numbers, expected 7"),
        (resealed(PAYLOAD[:BODY]), "block 0: 1 bytes at byte 12, only 0"),
        (changed(PAYLOAD, BODY, b"\x05"), "block 0: unknown kind 5"),
        (changed(PAYLOAD, BODY, b"\xfb"), "block 0: Rice parameter 31"),
        (changed(PAYLOAD, BODY + 1, b"\x65"), "block 0: length 101 at entry 0 of 100"),
        (changed(PAYLOAD, BODY + 1, b"\x00"), "block 0: length 0 at entry 0 of 100"),
        (changed(PAYLOAD, BODY + 1, b"\x63"), "block 0: length 99, but it is not the"),
        (changed(PAYLOAD, BODY + 2, b"\x00"), "block 0: 0 of its 100 entries"),
        (changed(PAYLOAD, BODY + 2, b"\x08"), "gaps: 7 numbers, expected 8"),
        (changed(PAYLOAD, BODY + 3, b"\x7f"), "unary stream of gaps: 127 bytes at"),
        (changed(PAYLOAD, BODY + 4, b"\x7f\x80"), "unary stream of gaps: 8 numbers"),
        (changed(PAYLOAD, BODY + 6, b"\xff\xff\x1f"), "position 127 lies outside"),
        (changed(PAYLOAD, BODY + 6, b"\x03\x39\x94"), "low bits of gaps: the bits"),
        (changed(PAYLOAD, SPLIT, b"\x37"), "unknown value coding 7"),
        (with_base(b"\xff\xfe\x01"), "outside the range of bfloat16"),
        (changed(PAYLOAD, SPLIT + 1, b"\xff" * 5), "base of values: no number"),
        (changed(PAYLOAD, SPLIT + 3, b"\xca"), "signs: the bits after"),
        (changed(PAYLOAD, -2 % len(PAYLOAD), b"\x65\x3c"), "values: 8 numbers"),
        (changed(INT8, SPLIT, bytes(4)), "scales: one is not above 0"),
        (changed(INT8, SPLIT, b"\x00\x00\xc0\x7f"), "scales: one is not above 0"),
        (changed(INT8, SPLIT, b"\x00\x00\x7f\x7f"), "not all finite"),
        (changed(FLOAT32, SPLIT + 1, b"\x80\x80\x80\xf6\x07"), "range of float32"),
        (changed(FLOAT32, SPLIT + 1, b"\xff\xff\xff\xff\x0f"), "more than 31 bits"),
        (changed(ENTROPY, BODY + 2, b"\x32"), "frequencies: "),
        (resealed(ENTROPY[:-2]), "entropy-coded stream: ends before"),
        (resealed(ENTROPY + bytes(2)), "entropy-coded stream: does not end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_say_what_is_wrong(payload, message):
    with pytest.raises(PayloadError, match=re.escape(message)):
        decode(payload, 100)


def test_the_entropy_coded_sample_is_one():
    assert ENTROPY[BODY + 2] & 7 == Coding.COMPACT


def test_the_wrong_layout_is_refused():
    layout = Layout.of({"a": np.zeros(100, np.float32)})
    other = Layout.of({"b": np.zeros(100, np.float32)})
    payload = encode(EXAMPLE, layout=layout)
    with pytest.raises(PayloadError, match="payload is of layout"):
        decode(payload, 100, fingerprint=other.fingerprint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "no tensor"),
        (b"{", "not a layout"),
        (b"\xff", "layout: "),
        (b"[" * 100_000, "not a layout"),
        (b'[["a",[-1],"float32","A"]]', "invalid shape"),
        (b'[["a",[%d],"float32","A"]]' % 10**300, "invalid shape"),
        (b'[["a",[%d,0],"float32","A"]]' % 2**63, "invalid shape"),
        (b'[["a",[2],"float32","A"],["a",[2],"float32","A"]]', "twice"),
        (b'[["a",[100],"float32","A"]]', "does not match"),
        (b'[["a",[99],"float32","A"]]', "does not match"),
        (b" " * (1 << 22) + b"[]", "at most 4194304 bytes"),
    ],
    ids=range(11),
)
def test_a_corrupt_layout_is_refused(text, message):
    carried = zlib.compress(text)
    with pytest.raises(PayloadError, match=message):
        read_layout(with_layout(varint(len(carried)), carried))


def test_a_layout_that_no_device_would_take_is_not_sent(monkeypatch):
    """Devices refused it, with the advice to compare versions."""
    assert MOST_TENSORS == 65536
    monkeypatch.setattr(carried, "MOST_TENSORS", 3)
    many = Layout.of({str(i): np.zeros(1, np.float32) for i in range(4)})
    nothing = top_k(np.zeros(4, np.float32), 1.0)
    with pytest.raises(
        ValueError, match=r"arrays .* must be <= 3 in one mess.*, got 4"
    ):
        encode(nothing, layout=many, carry_layout=True)
    encode(nothing, layout=many)
    halves = [Layout(many.tensors[::2]), Layout(many.tensors[1::2])]
    with pytest.raises(ValueError, match="got 4; join small ones"):
        require_sendable(halves)
    require_sendable([Layout(many.tensors[1:])])


def test_names_that_no_receiver_would_read_are_not_sent():
    long = Layout.of({"w" * (1 << 22): np.zeros(1, np.float32)})
    nothing = top_k(np.zeros(1, np.float32), 1.0)
    with pytest.raises(
        ValueError, match=r"names .* <= 4194304 .*, got .* for 1 arrays"
    ):
        encode(nothing, layout=long, carry_layout=True)
    encode(nothing, layout=long)

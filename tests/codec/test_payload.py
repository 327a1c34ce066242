import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from flasc_flwr.core.codec import PayloadError, decode, encode, read_layout
from flasc_flwr.core.layout import Layout

from .samples import GPT2_SIZE, gpt2_at_round_0, random_sparse, sparse_of

HEADER = 52
DOCUMENT = Path(__file__).parents[2] / "docs" / "wire-format.md"

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


def resealed(payload: bytes) -> bytes:
    """Give a payload the right checksum."""
    data = bytearray(payload)
    data[48:52] = bytes(4)
    data[48:52] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


def changed(payload: bytes, at: int, new: bytes) -> bytes:
    return resealed(payload[:at] + new + payload[at + len(new) :])


def test_the_documented_example_is_what_is_encoded():
    assert encode(EXAMPLE, "bfloat16") == documented_bytes()
    decoded = decode(documented_bytes(), 100)
    assert (decoded.positions == EXAMPLE.positions).all()
    assert (decoded.values == EXAMPLE.values).all()


def test_an_empty_vector_is_a_header_and_a_row():
    payload = encode(sparse_of(300, [], []), "float32")
    assert len(payload) == HEADER + 3
    assert decode(payload, 300).kept == 0


@pytest.mark.parametrize("density", [1 / 4, 1 / 16, 1 / 256])
def test_beside_the_streams_there_are_64_bytes_and_8_a_block(density):
    layout, vector = gpt2_at_round_0()
    rng = np.random.default_rng(0)
    for sparse in (
        random_sparse(rng, GPT2_SIZE, density),
        random_sparse(rng, 7, density),
    ):
        payload = encode(sparse, "bfloat16")
        table = int.from_bytes(payload[32:36], "little")
        rows = 1 + sparse.size // 256
        assert HEADER + table <= 64 + 8 * rows
    payload = encode(random_sparse(rng, GPT2_SIZE, density), layout=layout)
    assert int.from_bytes(payload[32:36], "little") <= 8 * 4


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


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, less than its header"),
        (PAYLOAD[:51], "51 bytes, less than its header"),
        (b"FLSX" + PAYLOAD[4:], "begins with b'FLSX'"),
        (changed(PAYLOAD, 4, b"\x01"), "version 1, this is 2"),
        (PAYLOAD[:-1], "checksum"),
        (PAYLOAD[:60] + b"\xff" + PAYLOAD[61:], "checksum"),
        (changed(PAYLOAD, 5, b"\x05"), "unknown value format 5"),
        (changed(PAYLOAD, 6, b"\x03"), "unknown value coding 3"),
        (changed(PAYLOAD, 7, b"\x20"), "32 low bits"),
        (changed(PAYLOAD, 8, b"\x65"), "size 101, expected 100"),
        (resealed(PAYLOAD + b"\x00"), "1 bytes are left over"),
        (resealed(PAYLOAD[:-1]), "high bits of values: 2 bytes at byte 67, only 1"),
        (changed(PAYLOAD, 28, b"\xff\xff\xff\xff"), "layout: 4294967295 bytes"),
        (changed(PAYLOAD, 32, b"\xff\xff\xff\xff"), "block table: 4294967295 bytes"),
        (changed(PAYLOAD, 52, b"\x05"), "block 0: unknown kind 5"),
        (changed(PAYLOAD, 52, b"\xfb"), "block 0: Rice parameter 31"),
        (changed(PAYLOAD, 53, b"\x65"), "block 0: length 101 at entry 0 of 100"),
        (changed(PAYLOAD, 53, b"\x00"), "block 0: length 0 at entry 0 of 100"),
        (changed(PAYLOAD, 53, b"\x63"), "block 0: length 99, but it is not the last"),
        (changed(PAYLOAD, 54, b"\x00"), "block 0: 0 of its 100 entries"),
        (changed(PAYLOAD, 54, b"\x08"), "unary stream of gaps: 7 numbers, expected 8"),
        (changed(PAYLOAD, 55, b"\x7f\x80"), "unary stream of gaps: 8 numbers"),
        (changed(PAYLOAD, 57, b"\xff\xff\x1f"), "position 127 lies outside"),
        (changed(PAYLOAD, 57, b"\x03\x39\x94"), "low bits of gaps: the bits after"),
        (changed(PAYLOAD, 60, b"\xca"), "signs: the bits after"),
        (changed(PAYLOAD, 24, b"\x7f\x7f"), "outside the range of bfloat16"),
        (changed(PAYLOAD, 24, b"\xff\xff\xff\xff"), "more than 31 bits"),
        (changed(PAYLOAD, 67, b"\x65\x3c"), "high bits of values: 8 numbers"),
        (changed(INT8, 60, bytes(4)), "scales: one is not above 0"),
        (changed(INT8, 60, b"\x00\x00\xc0\x7f"), "scales: one is not above 0"),
        (changed(INT8, 60, b"\x00\x00\x7f\x7f"), "not all finite"),
        (changed(FLOAT32, 24, b"\x00\x00\xc0\x7e"), "outside the range of float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_say_what_is_wrong(payload, message):
    with pytest.raises(PayloadError, match=re.escape(message)):
        decode(payload, 100)


def test_the_wrong_layout_is_refused():
    layout = Layout.of({"a": np.zeros(100, np.float32)})
    other = Layout.of({"b": np.zeros(100, np.float32)})
    payload = encode(EXAMPLE, layout=layout)
    with pytest.raises(PayloadError, match="payload is of layout"):
        decode(payload, 100, fingerprint=other.fingerprint)


def with_layout(text: bytes, size: int = 100) -> bytes:
    """Return a payload that carries this text as its layout."""
    carried = zlib.compress(text)
    header = bytearray(PAYLOAD[:HEADER])
    header[8:16] = size.to_bytes(8, "little")
    header[28:32] = len(carried).to_bytes(4, "little")
    return resealed(bytes(header) + carried + PAYLOAD[HEADER:])


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
    with pytest.raises(PayloadError, match=message):
        read_layout(with_layout(text))

"""Payloads whose head has a value format of its own."""

import numpy as np
import pytest

from flasc_flwr.core.codec import VALUES, PayloadError, decode, encode, of_formats
from flasc_flwr.core.codec.header import Header, seal
from flasc_flwr.core.codec.parts import pieces
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.sparsity import SparseVector, top_k

RNG = np.random.default_rng(1)
SHAPES = {
    "a.lora_A.weight": (4, 60),
    "a.lora_B.weight": (50, 4),
    "classifier.weight": (10, 40),
    "classifier.bias": (10,),
    "z.lora_A.weight": (4, 70),
    "z.lora_B.weight": (30, 4),
}
ARRAYS = {n: RNG.normal(0, 1, s).astype(np.float32) for n, s in SHAPES.items()}
LAYOUT = Layout.of(ARRAYS)
VECTOR = LAYOUT.flatten(ARRAYS)
HEAD = slice(440, 850)


@pytest.mark.parametrize("density", [0.003, 0.25, 1.0])
@pytest.mark.parametrize("most", ["float32", "int8", "step"])
@pytest.mark.parametrize("head", ["float32", "bfloat16", "int4", "step"])
def test_each_part_is_what_its_format_alone_makes_of_it(most, head, density):
    sparse = top_k(VECTOR, density)
    payload = encode(sparse, of_formats(most, head), layout=LAYOUT, carry_layout=True)
    ours = decode(payload, LAYOUT.size, fingerprint=LAYOUT.fingerprint).densify()
    if most == head:
        assert payload == encode(sparse, most, layout=LAYOUT, carry_layout=True)
        return
    runs = zip([most, head, most], [slice(0, 440), HEAD, slice(850, 1250)], strict=True)
    for (values, place), (_, inner) in zip(runs, pieces(LAYOUT), strict=True):
        inside = sparse.densify()[place]
        positions = np.flatnonzero(inside).astype(np.int64)
        alone = SparseVector(len(inside), positions, inside[positions])
        expected = decode(encode(alone, values, layout=inner), len(inside)).densify()
        np.testing.assert_array_equal(ours[place], expected)


def test_a_coarse_head_takes_fewer_bytes():
    sparse = top_k(VECTOR, 1.0)
    coarse = len(encode(sparse, "float32+head=int4", layout=LAYOUT))
    fine = len(encode(sparse, "float32", layout=LAYOUT))
    assert fine - coarse > 410 * 2.5


def test_where_all_is_the_head_there_is_only_its_format():
    sparse = top_k(VECTOR, 0.5)
    layout = Layout.of(ARRAYS, dict.fromkeys(ARRAYS, Role.HEAD))
    alone = encode(sparse, "int4", layout=layout, carry_layout=True)
    assert encode(sparse, "step+head=int4", layout=layout, carry_layout=True) == alone


def test_without_a_head_or_a_layout_there_is_one_format():
    sparse = top_k(VECTOR, 0.5)
    assert encode(sparse, "int8+head=int4") == encode(sparse, "int8")
    bare = Layout.of({n: a for n, a in ARRAYS.items() if "lora" in n})
    half = top_k(bare.flatten({n: ARRAYS[n] for n in bare_names(bare)}), 0.5)
    assert encode(half, "int8+head=int4", layout=bare) == encode(
        half, "int8", layout=bare
    )


def bare_names(layout):
    return [tensor.name for tensor in layout.tensors]


def test_room_refines_what_is_not_the_head():
    sparse = top_k(VECTOR, 1.0)
    plain = encode(sparse, "step+head=int4", layout=LAYOUT)
    more = encode(sparse, "step+head=int4", layout=LAYOUT, room=len(plain) + 300)
    assert len(plain) < len(more) <= len(plain) + 300
    errors = [
        np.abs(decode(p, LAYOUT.size).densify() - VECTOR)[:440].sum()
        for p in (plain, more)
    ]
    assert errors[1] < errors[0]


def test_names_of_two_formats():
    assert of_formats("int4", "auto") == of_formats("int4", "int4") == "int4"
    for wrong in ("int4+head=int4", "int4+head=", "int4+head=int2", "+head=int4", 4):
        assert VALUES.check(wrong) is None


def sealed(body):
    return seal(Header(64, LAYOUT.size), body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "number of parts"),
        (b"\x00", "number of parts must be 1 to 64, got 0"),
        (b"\xff" * 40, "number of parts must be 1 to 64, got 255"),
        (b"\x01\x05\x00\x00", "parts have 5 entries, expected 1250"),
        (b"\x01\xe2\x09\x40\x00", "unknown value format 64"),
        (b"\x01\xe2\x09\x00\x09", "part: 9 bytes"),
        (b"\x01" + b"\xff" * 9 + b"\x01\x00\x00", "parts have"),
    ],
)
def test_corrupt_parts_are_refused(body, message):
    with pytest.raises(PayloadError, match=message):
        decode(sealed(body), LAYOUT.size)


def test_every_flip_and_cut_of_a_sealed_body_is_refused_or_decodes():
    payload = encode(top_k(VECTOR, 0.1), "bfloat16+head=int4", layout=LAYOUT)
    body = payload[21:]
    for _ in range(300):
        changed = bytearray(body)
        place = int(RNG.integers(len(changed)))
        changed[place] ^= 1 << int(RNG.integers(8))
        if RNG.random() < 0.3:
            changed = changed[: int(RNG.integers(len(changed)))]
        try:
            found = decode(seal(Header(64, LAYOUT.size), bytes(changed)), LAYOUT.size)
        except PayloadError:
            continue
        assert np.isfinite(found.values).all()

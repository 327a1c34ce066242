"""The payload: a header, and the body of its value format.

``docs/wire-format.md`` specifies it byte by byte, for clients in other languages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flasc_flwr.core.codec import version2
from flasc_flwr.core.codec.body import Body, body_of
from flasc_flwr.core.codec.carried import deflated, inflated
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import FORMATS
from flasc_flwr.core.codec.header import (
    VERSION,
    Header,
    check_magic,
    read_header,
    seal,
)
from flasc_flwr.core.codec.parts import (
    MARK,
    decode_parts,
    encode_parts,
    of_formats,
    pieces,
    split,
)
from flasc_flwr.core.codec.step.body import decode_body as decode_step
from flasc_flwr.core.codec.step.body import encode_body as encode_step
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.ranges import Range, choice
from flasc_flwr.core.sparsity import SparseVector

BODIES = (*map(body_of, FORMATS), Body("step", encode_step, decode_step))
"""The value formats, each with its body. A payload has the index: add at the end."""
VALUE_FORMATS = tuple(body.name for body in BODIES)

_PARTS = 64
"""Stands for several value formats in a header, each for its part of the vector."""


def _known(values: object) -> str | None:
    if not isinstance(values, str) or not set(split(values)) <= set(VALUE_FORMATS):
        return None
    # In its shortest form only.
    return values if of_formats(*split(values)) == values else None


VALUES = Range(
    choice(*VALUE_FORMATS).allowed + f", or two of them such as 'int4{MARK}int8'",
    _known,
)
"""What a value format may be, also with another one for the head."""


def encode(
    sparse: SparseVector,
    values: str = "float32",
    *,
    layout: Layout | None = None,
    carry_layout: bool = False,
    seed: int | None = None,
    room: int = 0,
) -> bytes:
    """Encode a sparse vector.

    Parameters
    ----------
    sparse : SparseVector
        The vector.
    values : str
        Value format, or two of them such as ``int4+head=int8``, where the second is
        that of the layout's head: ``float32`` (exact), ``bfloat16`` (8 significant
        bits), ``float16`` (11 significant bits down to 2**-29 of the largest value),
        ``int8`` or ``int4`` (127 or 7 levels up to the largest of each 1024 or 256
        values), or ``step``: multiples of one step, which the smallest value kept
        defines, so that the precision follows from the density (entries that round to
        zero are left out). Rounded to nearest, unless `seed` is given.
    layout : Layout, optional
        Layout of the vector. The payload carries its fingerprint, and blocks of
        positions follow its tensors, which takes fewer bytes.
    carry_layout : bool
        Whether the payload carries the layout, for a receiver that does not have it.
    seed : int, optional
        Rounds ``int8``, ``int4`` and ``step`` stochastically, so that the expected
        value is exact; with ``step``, that of the entries that are kept: what is below
        0.6 of the step is left out all the same. The same seed gives the same bytes.
        Other formats ignore it.
    room : int
        Bytes that the payload may take: where ``step`` would take fewer because its
        steps are as fine as they get, it takes finer ones. Other formats ignore it.

    Returns
    -------
    bytes
        The payload.

    Raises
    ------
    ValueError
        If the value format is unknown, the layout has another size or is too large to
        be carried, or a value is not finite in that format.
    """
    VALUES.require("value-format", values)
    if layout is not None and layout.size != sparse.size:
        raise ValueError(f"vector has {sparse.size} entries, its layout {layout.size}")
    if carry_layout and layout is None:
        raise ValueError("carry_layout needs a layout, got None")
    if not np.isfinite(sparse.values).all():
        raise ValueError("values are not all finite")
    most, head = map(VALUE_FORMATS.index, split(values))
    runs = pieces(layout) if layout is not None and most != head else []
    if [in_head for in_head, _ in runs] == [True]:
        most = head  # there is nothing else
    apart = len(runs) > 1
    number = _PARTS if apart else most
    carried = b""
    if layout is not None and carry_layout:
        carried = deflated(layout)
    fingerprint = layout.fingerprint if layout is not None else b""
    header = Header(number, sparse.size, fingerprint, carried)
    room = max(0, room - len(seal(header, b"")))
    if layout is not None and apart:
        body = encode_parts(sparse, layout, (most, head), BODIES, seed, room)
    else:
        body = BODIES[most].encode(sparse, layout, seed, room)
    return seal(header, body)


def refines(values: str) -> bool:
    """Return whether a value format has a use for more bytes: see `room`."""
    return split(values)[0] == "step"


def decode(
    payload: bytes, size: int, *, fingerprint: bytes | None = None
) -> SparseVector:
    """Decode a payload, in time and memory linear in `size`.

    Parameters
    ----------
    payload : bytes
        The payload; it may come from a stranger.
    size : int
        N, the expected length of the vector.
    fingerprint : bytes, optional
        The expected fingerprint of the layout; by default any.

    Raises
    ------
    PayloadError
        If the payload is corrupt, or has another size or fingerprint.
    """
    header, read = _open(payload)
    if header.size != size:
        raise PayloadError(f"payload has size {header.size}, expected {size}")
    if fingerprint is not None and header.fingerprint != fingerprint:
        raise PayloadError(
            f"payload is of layout {header.fingerprint.hex() or 'unknown'}, "
            f"expected {fingerprint.hex()}"
        )
    return read()


def read_layout(payload: bytes) -> Layout:
    """Return the layout that a payload carries.

    Raises
    ------
    PayloadError
        If it carries none, or one that contradicts its header.
    """
    header, _ = _open(payload)
    if not header.layout:
        raise PayloadError("payload carries no layout")
    layout = inflated(header.layout)
    if layout.size != header.size or layout.fingerprint != header.fingerprint:
        raise PayloadError("layout does not match the payload's size and fingerprint")
    return layout


def _open(payload: bytes) -> tuple[Header, Callable[[], SparseVector]]:
    """Return the checked header, and the function that decodes the body."""
    version = check_magic(payload)
    if version == version2.VERSION:
        old, lengths, rest = version2.read_header(payload)
        return old, lambda: version2.decode_body(old, lengths, rest)
    if version != VERSION:
        raise PayloadError(
            f"payload has version {version}, this is {VERSION}: "
            "server and client need the same version of flasc-flwr"
        )
    header, reader = read_header(payload)
    if header.number != _PARTS:
        _body(header.number)

    def read() -> SparseVector:
        if header.number == _PARTS:
            sparse = decode_parts(reader, header.size, _body)
        else:
            sparse = _body(header.number).decode(reader, header.size)
        reader.finish("payload")
        return sparse

    return header, read


def _body(number: int) -> Body:
    if number >= len(BODIES):
        raise PayloadError(f"payload has unknown value format {number}")
    return BODIES[number]

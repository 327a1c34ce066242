"""The layout that a payload carries: deflated, and how large it may be."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.layout import Layout

MOST_TENSORS = 1 << 16
"""More than any model has: bounds the memory that layouts take. Devices refuse a
message with more, of all its records together."""

_MOST_BYTES = 1 << 22
"""Most bytes of a layout's JSON."""


def require_sendable(layouts: Iterable[Layout]) -> None:
    """Check that the records of one message have no more arrays than devices accept.

    Raises
    ------
    ValueError
        If they have more.
    """
    tensors = sum(len(layout.tensors) for layout in layouts)
    if tensors > MOST_TENSORS:
        raise ValueError(
            f"arrays in payloads must be <= {MOST_TENSORS} in one message, got "
            f"{tensors}; join small ones into larger arrays, or leave them out"
        )


def deflated(layout: Layout) -> bytes:
    """Return the bytes that a payload carries.

    Raises
    ------
    ValueError
        If no receiver would read them, as there are too many or too long names.
    """
    require_sendable([layout])
    text = layout.to_json().encode()
    if len(text) > _MOST_BYTES:
        raise ValueError(
            f"names and shapes of the arrays must take <= {_MOST_BYTES} bytes as JSON, "
            f"got {len(text)} for {len(layout.tensors)} arrays"
        )
    return zlib.compress(text, 9)


def inflated(data: bytes | memoryview) -> Layout:
    """Return the layout that a payload carries.

    Raises
    ------
    PayloadError
        If the bytes are not those of a layout.
    """
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, _MOST_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise PayloadError(
                f"layout: not one deflated text of at most {_MOST_BYTES} bytes"
            )
        return Layout.from_json(text.decode())
    except PayloadError:
        raise
    except (zlib.error, ValueError) as error:
        raise PayloadError(f"layout: {error}") from None

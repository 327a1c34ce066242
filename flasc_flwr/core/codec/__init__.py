"""The codec: one sparse vector as bytes, and back.

``docs/wire-format.md`` describes the bytes. The files here, from the bottom up:
`bits` packs integers; `blocks` cuts the vector, `block_table` and `positions` code the
support block by block; `formats` turns values into integers, `entropy` and `values`
code those; and `payload` puts it all together.
"""

from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.formats import VALUE_FORMATS
from flasc_flwr.core.codec.payload import VERSION, decode, encode, read_layout

__all__ = [
    "VALUE_FORMATS",
    "VERSION",
    "PayloadError",
    "decode",
    "encode",
    "read_layout",
]

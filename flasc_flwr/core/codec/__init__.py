"""The codec: one sparse vector as bytes, and back.

``docs/wire-format.md`` specifies the bytes. The modules, from the bottom up: `bits`
packs integers; `blocks`, `block_table` and `positions` code the support block by block;
`formats` quantizes the values, `entropy` and `values` code the resulting integers;
`payload` puts the parts together.
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

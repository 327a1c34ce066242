"""The codec: one sparse vector as bytes, and back.

``docs/wire-format.md`` specifies the bytes. The modules, from the bottom up: `bits`
packs integers; `blocks`, `block_table` and `positions` code the support block by block;
`formats` quantizes the values, `values` codes the resulting integers, with `entropy`
(`lanes`, `frequencies`) where that pays; `body` and `header` put the parts together;
`carried` is the layout in them;
`parts` joins several formats; `payload` writes and reads the whole; `version2` reads
what older versions wrote; `one_entry` knows the most bytes of the smallest payloads.
"""

from flasc_flwr.core.codec.carried import MOST_TENSORS, require_sendable
from flasc_flwr.core.codec.errors import PayloadError
from flasc_flwr.core.codec.header import VERSION
from flasc_flwr.core.codec.one_entry import most_bytes_of_one_entry
from flasc_flwr.core.codec.parts import of_formats, require_head, split
from flasc_flwr.core.codec.payload import (
    VALUE_FORMATS,
    VALUES,
    decode,
    encode,
    read_layout,
    refines,
)

__all__ = [
    "MOST_TENSORS",
    "VALUES",
    "VALUE_FORMATS",
    "VERSION",
    "PayloadError",
    "decode",
    "encode",
    "most_bytes_of_one_entry",
    "of_formats",
    "read_layout",
    "refines",
    "require_head",
    "require_sendable",
    "split",
]

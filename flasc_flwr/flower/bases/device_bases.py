"""Bases on a device: kept from the message that has them for all that need them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.compat import log, records_of
from flasc_flwr.flower.feedback.kept_memory import MemoryFolderError, kept_memory
from flasc_flwr.flower.wire import BASES, payload_of, payload_record

VERSION = "bases-version"
"""Entry of the CONTROL record: the version of the bases that a message is to be used
with; they are in it, or the device has them."""

HELD = "bases-held"
"""Entry of the CONTROL record in which a device says which version it holds; empty if
it holds none. In a reply: it cannot use this message, and has to be sent the bases."""

VERSION_BYTES = 8

_PAYLOAD = "payload"


def version_of(payload: bytes) -> bytes:
    """Return the version of bases: the start of the SHA-256 of their payload."""
    return hashlib.sha256(payload).digest()[:VERSION_BYTES]


class DeviceBases:
    """The bases that a message is to be used with.

    Parameters
    ----------
    context : Context
        The node's context, which says where bases are kept.
    version : bytes, optional
        Their version. Default: the message needs none.
    """

    def __init__(self, context: Context, version: bytes | None = None) -> None:
        self._context = context
        self._version = version
        self._fresh: bytes | None = None

    @classmethod
    def of(cls, context: Context, control: ConfigRecord | None) -> DeviceBases:
        """Return the bases of a message, which may need none.

        Takes their version out of the CONTROL record.

        Raises
        ------
        ValueError
            If it is of another type or length.
        """
        if control is None or VERSION not in control:
            return cls(context)
        version = control.pop(VERSION)
        if not isinstance(version, bytes) or len(version) != VERSION_BYTES:
            raise ValueError(f"{VERSION} must be {VERSION_BYTES} bytes")
        return cls(context, version)

    def put_into(self, content: RecordDict) -> bool:
        """Put the bases into a message's content, unless it has them already.

        Returns
        -------
        bool
            Whether all is there that the message needs: the device may hold other
            bases, or none.

        Raises
        ------
        PayloadError
            If the message has others than it names.
        """
        if self._version is None:
            return True
        sent = records_of(content, ArrayRecord).get(BASES)
        if sent is not None:
            self._fresh = payload_of(sent)
            if version_of(self._fresh) != self._version:
                raise PayloadError("the bases are damaged: their checksum is wrong")
            return True
        kept = _kept(self._context)
        if kept is None or version_of(kept) != self._version:
            return False
        content[BASES] = payload_record(kept)
        return True

    def keep(self) -> None:
        """Keep what a message has brought, in place of what was kept before."""
        if self._fresh is not None:
            stored = {_PAYLOAD: np.frombuffer(self._fresh, np.uint8)}
            kept_memory(self._context, BASES).write(stored)


def held_bases(context: Context) -> bytes | None:
    """Return the version of the bases that a node holds; None for none."""
    kept = _kept(context)
    return None if kept is None else version_of(kept)


def lacking(context: Context) -> ConfigRecord:
    """Return what a device answers that lacks the bases of a message: what it holds."""
    return ConfigRecord({HELD: held_bases(context) or b""})


def held_in(answer: Mapping[str, Any]) -> bytes | None:
    """Return which version a device says that it holds; None for none."""
    held = answer.get(HELD)
    return held if isinstance(held, bytes) and len(held) == VERSION_BYTES else None


def _kept(context: Context) -> bytes | None:
    try:
        stored = kept_memory(context, BASES).read()
        return None if stored is None else stored[_PAYLOAD].astype(np.uint8).tobytes()
    except MemoryFolderError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        log(WARNING, "The node's bases cannot be read and are replaced: %s", error)
        return None

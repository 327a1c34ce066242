"""``upload-bytes = "auto"``: what fits into a device's seconds, at its bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flasc_flwr.core.ranges import number
from flasc_flwr.core.settings import check, setting, settings_of

BYTES_PER_MEGABIT = 1e6 / 8

UPLOAD_BYTES = "upload-bytes"

FIRST_BYTES = 1 << 16
"""Bytes of a device's first upload, as long as its bandwidth is not known."""

_FEWEST_BYTES = 1 << 10
"""A payload of so few takes no time worth counting."""


@dataclass(frozen=True, kw_only=True)
class UploadPace:
    """How long a device's uploads may take, and what its owner knows of its link.

    Attributes
    ----------
    upload_seconds : float
        Seconds that an upload may take, where ``upload-bytes`` is ``auto``.
    upload_mbits : float, optional
        Bandwidth of the device's uploads in Mbit/s (10^6 bits per second); None: the
        server measures it.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    upload_seconds: float = setting(
        30.0,
        number("(0, 86400]"),
        "seconds that an upload may take, where upload-bytes is 'auto'",
        unit="s",
    )
    upload_mbits: float | None = setting(
        None,
        number("(0, 1000000]"),
        "bandwidth of its uploads, if it is known",
        unit="Mbit/s",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    @classmethod
    def of(cls, own: Mapping[str, Any]) -> UploadPace:
        """Return what a device's own settings say.

        Raises
        ------
        ValueError
            If one is out of range.
        """
        keys = {name: declared.key for name, declared in settings_of(cls).items()}
        return cls(**{name: own[key] for name, key in keys.items() if key in own})

    @property
    def bytes_per_second(self) -> float | None:
        """Bandwidth that the device's owner has given; None if none is."""
        if self.upload_mbits is None:
            return None
        return self.upload_mbits * BYTES_PER_MEGABIT

    def most_bytes(self, bytes_per_second: float | None = None) -> int:
        """Return the most bytes of an upload.

        Parameters
        ----------
        bytes_per_second : float, optional
            What was measured; what the owner has given counts more. Without either,
            the first upload is small.
        """
        speed = self.bytes_per_second or bytes_per_second
        if speed is None:
            return FIRST_BYTES
        return max(_FEWEST_BYTES, int(self.upload_seconds * speed))


def pace_keys() -> frozenset[str]:
    """Return the keys of a ``--node-config`` that are about a device's pace."""
    return frozenset(declared.key for declared in settings_of(UploadPace).values())

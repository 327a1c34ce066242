"""Budgets: what one client may use of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flasc_flwr.sparsity import DENSITY


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Fractions of the adapter that a client receives and sends, each in (0, 1].

    Raises
    ------
    ValueError
        If a density is out of range.
    """

    download_density: float
    upload_density: float

    def __post_init__(self) -> None:
        """Check both densities."""
        DENSITY.require("download-density", self.download_density)
        DENSITY.require("upload-density", self.upload_density)

    def limited_by(self, own: Mapping[str, Any]) -> Budget:
        """Return this budget with a device's own settings in place of it.

        Parameters
        ----------
        own : Mapping[str, Any]
            The device's ``download-density`` and ``upload-density``, where it sets
            them (``--node-config``).
        """
        return Budget(
            download_density=own.get("download-density", self.download_density),
            upload_density=own.get("upload-density", self.upload_density),
        )

"""What a private run does not report: numbers that depend on clients, without noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reported_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a round's row with null for what depends on the clients' updates."""
    return {**row, "kept_up": None, "largest_payload_up": None}


def reported_tensors(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``tensors.json`` with null for what uploads had."""
    return {
        **report,
        "tensors": [{**tensor, "kept_up": None} for tensor in report["tensors"]],
        "bits_per_parameter": {**report["bits_per_parameter"], "up": None},
    }

"""Silos that take part again and again: error feedback beside what it competes with."""

from collections.abc import Mapping
from typing import Any


def ef(density: float, values: str = "int4", **more: Any) -> Mapping[str, Any]:
    """Return error feedback both ways at one density."""
    given = {name.replace("_", "-"): value for name, value in more.items()}
    return {
        "method": "flasc-ef",
        "download-density": density,
        "upload-density": density,
        "value-format": values,
        **given,
    }


SILO_DIGITS = {
    # The best server optimizer for dense of those tried (docs/error-feedback.md).
    "dense": {
        "method": "dense",
        "server-optimizer": "fedavgm",
        "server-momentum": 0.9,
    },
    "dense-adamw": {"method": "dense"},
    "ef24": ef(1 / 24),
    "ef32": ef(1 / 32),
    "ef64": ef(1 / 64, num_server_rounds=60),
    "none24": {**ef(1 / 24), "method": "flasc", "server-optimizer": "fedavgm"},
    "none24-adamw": {**ef(1 / 24), "method": "flasc"},
    "up24": ef(1 / 24, error_feedback="up"),
}

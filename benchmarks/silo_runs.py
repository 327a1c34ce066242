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


DENSITIES_32 = {
    "download-density": 1 / 32,
    "upload-density": 1 / 32,
    "value-format": "int4",
}
SILO_DIGITS = {
    # The best server optimizer for dense of those tried (docs/error-feedback.md).
    "dense": {
        "method": "dense",
        "server-optimizer": "fedavgm",
        "server-momentum": 0.9,
    },
    # More rounds than dense, and still 60 times fewer bytes.
    "ef32": ef(1 / 32, num_server_rounds=46),
    "ef64": ef(1 / 64, num_server_rounds=48),
    "flasc32": {"method": "flasc", **DENSITIES_32},
}

# What competes without a memory: as small-20newsgroups-350.toml and, at rank 2,
# small-20newsgroups-fewest-bytes.toml train.
ADAMW = {
    "server-optimizer": "adamw",
    "server-learning-rate": 0.005,
    "server-learning-rate-decay": 1.0,
    "client-learning-rate": 0.01,
}
SILO_NEWS = {
    "ef40": {},
    "ef40-constant": {"server-learning-rate-decay": 1.0},
    # A hundredth of dense's bytes; what waits counts for longer.
    "ef30": {
        "download-density": 1 / 30,
        "upload-density": 1 / 30,
        "feedback-decay": 0.95,
        "server-momentum": 0.7,
    },
    "dense": {"method": "dense", "init": "sent", **ADAMW},
    "rank2-int4": {
        "method": "dense",
        "lora-rank": 2,
        "value-format": "int4",
        "server-optimizer": "adamw",
        "server-learning-rate": 0.0075,
        "server-learning-rate-decay": 1.0,
        "client-learning-rate": 0.00125,
    },
    "flasc40": {"method": "flasc", "value-format": "int4", **ADAMW},
}

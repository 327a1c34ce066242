"""Small cores, dense and sparse, beside LoRA of rank 2 and FLASC.

Learning rates of cores are not those of LoRA: with orthonormal bases a step of the core
moves the weights less, with bases of singular values more. They were chosen at seed 0.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

SPARSE = {
    "download-density": 1 / 4,
    "upload-density": 1 / 4,
    "value-format": "step",
}
INT4 = {"value-format": "int4"}


def core(method: str, rank: int, basis: str, rate: float, **more: Any) -> Settings:
    """Return a core of scale 1 with everything sent exactly, at a clients' rate."""
    return {
        "method": method,
        "lora-rank": rank,
        "lora-alpha": float(rank),
        "core-basis": basis,
        "client-learning-rate": rate,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


CORES_DIGITS = {
    "rank16": {"method": "dense"},
    "rank2": {"method": "dense", "lora-rank": 2},
    "rank2-int4": {
        "method": "dense",
        "lora-rank": 2,
        "init": "shared-seed",
        **INT4,
        "server-learning-rate": 0.005,
    },
    "flasc4": {"method": "flasc", **SPARSE, "value-format": "bfloat16"},
    "sb16-seed": core("fed-sb", 16, "seed", 0.2),
    "sb16-weights": core("fed-sb", 16, "weights", 0.05),
    "sb16-weights-int4": {**core("fed-sb", 16, "weights", 0.05), **INT4},
    "sb16-weights-step4": {**core("fed-sb", 16, "weights", 0.05), **SPARSE},
    # The first of the 20 rounds measures the bases.
    "sb16-gradient": core("fed-sb", 16, "gradient", 0.03),
    "sb32-weights": core("fed-sb", 32, "weights", 0.05),
    "sb32-weights-step4": {**core("fed-sb", 32, "weights", 0.05), **SPARSE},
    # At a rate of 0.2, one of three seeds diverged.
    "ravan64-seed": core("ravan", 64, "seed", 0.1),
    "ravan64-seed-step4": {**core("ravan", 64, "seed", 0.1), **SPARSE},
}


def news(method: str, rank: int, server: float) -> Settings:
    """Return a core with bases of weights, whose server steps by AdamW.

    Everything is sent, as ``step``, in 100 rounds.
    """
    return {
        **core(method, rank, "weights", 0.0025),
        "server-learning-rate": server,
        "init": "auto",
        "download-density": 1.0,
        "upload-density": 1.0,
        "value-format": "step",
        "num-server-rounds": 100,
    }


SB16, SB32 = news("fed-sb", 16, 0.015), news("fed-sb", 32, 0.01)
RAVAN64 = news("ravan", 64, 0.01)
CORES_NEWS = {
    "sb16-step": SB16,
    "sb16-step4": {**SB16, **SPARSE},
    # Longer, for what it is worth at 20 and 30 MB.
    "sb32-step": {**SB32, "num-server-rounds": 190},
    "sb32-step4": {**SB32, **SPARSE},
    "ravan64-step4": {**RAVAN64, **SPARSE},
}

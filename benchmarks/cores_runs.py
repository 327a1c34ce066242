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
RANK2_INT4 = {"method": "dense", "lora-rank": 2, "init": "shared-seed", **INT4}


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
    "rank2-int4": {**RANK2_INT4, "server-learning-rate": 0.005},
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


def news(method: str, rank: int, basis: str, client: float, server: float) -> Settings:
    """Return a core whose clients and server both step by AdamW."""
    return {
        **core(method, rank, basis, client),
        "server-optimizer": "adamw",
        "server-learning-rate": server,
    }


# Rates that move the weights about as far as the profile's do with LoRA. Not tuned.
SB16_SEED = news("fed-sb", 16, "seed", 0.002, 0.015)
SB16_WEIGHTS = news("fed-sb", 16, "weights", 0.0005, 0.003)
RAVAN64 = news("ravan", 64, "seed", 0.002, 0.015)
CORES_NEWS = {
    "rank2": {"method": "dense", "lora-rank": 2},
    "rank2-int4": RANK2_INT4,
    "flasc4": {},
    "sb16-seed": SB16_SEED,
    "sb16-seed-int4": {**SB16_SEED, **INT4},
    "sb16-weights": SB16_WEIGHTS,
    "sb16-weights-int4": {**SB16_WEIGHTS, **INT4},
    "sb16-weights-step4": {**SB16_WEIGHTS, **SPARSE},
    "sb32-weights": news("fed-sb", 32, "weights", 0.0005, 0.003),
    "ravan64-seed": RAVAN64,
    "ravan64-seed-step4": {**RAVAN64, **SPARSE},
}

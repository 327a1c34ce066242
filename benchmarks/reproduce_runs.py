"""The runs behind docs/results.md: every experiment with its settings."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cores_runs import CORES_DIGITS, CORES_NEWS
from silo_runs import SILO_DIGITS, SILO_NEWS

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """Runs that are compared with each other.

    Attributes
    ----------
    settings : Mapping[str, Settings]
        What each compares, by a short name.
    common : Settings
        What all of them share, over the profile.
    profile : str
        File in conf/; "" is the defaults.
    clients : int
        Number of clients.
    seeds : Sequence[int]
        Each setting runs once for each.
    beside : Mapping[str, Sequence[str]]
        Settings of other experiments that stand in the same tables and figures.
    """

    settings: Mapping[str, Settings]
    common: Settings = field(default_factory=dict)
    profile: str = ""
    clients: int = 20
    seeds: Sequence[int] = (0, 1, 2)
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)


def profile(name: str) -> dict[str, Any]:
    """Return the settings of a file in conf/; none of ""."""
    conf = Path(__file__).parent.parent / "conf"
    return tomllib.loads((conf / name).read_text()) if name else {}


def both(density: float, values: str = "bfloat16") -> Settings:
    """Return FLASC at one density both ways."""
    return {
        "method": "flasc",
        "download-density": density,
        "upload-density": density,
        "value-format": values,
    }


def news(down: float, up: float, values: str, rounds: int, **more: Any) -> Settings:
    """Return FLASC with A from a shared seed, and a density each way.

    What else is given comes last: another method, too.
    """
    given = {name.replace("_", "-"): value for name, value in more.items()}
    return {
        "method": "flasc",
        "download-density": down,
        "upload-density": up,
        "value-format": values,
        "init": "shared-seed",
        "num-server-rounds": rounds,
        **given,
    }


# Noise multipliers for epsilon 8 and 2 after 10 rounds of 301 of 900 clients:
# flasc-flwr noise --epsilon 8 --rounds 10 --cohort 301 --population 900 \
#     --sampling poisson
NOISE = {"8": 0.872, "2": 2.1315}
PRIVATE = {
    "num-server-rounds": 10,
    "evaluate-every": 2,
    "fraction-train": 0.33334,
    "partitioner": "iid",
    "local-epochs": 2,
    "client-learning-rate": 0.1,
    "server-optimizer": "sgd",
    "dp-clip-norm": 1.0,
    "dp-population": 900,
    "dp-sampling": "poisson",
    # Public data: the noise may be seeded, so that the table can be reproduced.
    "dp-noise-seed": 1,
}
COMPARED = {
    "dense": {"method": "dense"},
    "ffa-lora": {"method": "ffa-lora"},
    "rank4": {"method": "dense", "lora-rank": 4},
    "flasc4": both(1 / 4),
    "flasc16": both(1 / 16),
    # Only a sum of all clients' updates has a bounded sensitivity.
    "sb16": {
        **CORES_DIGITS["sb16-weights"],
        "aggregation": "zero-padded-updates",
    },
}

EVERYTHING = {"download-density": 1.0, "upload-density": 1.0}
# The headline's settings: rank 2. And those of rank 4.
FEWEST = profile("small-20newsgroups-fewest-bytes.toml")
FALLING = {"server-learning-rate": 0.0075, "server-learning-rate-decay": 0.985}
RANK4 = {
    **FEWEST,
    **FALLING,
    "lora-rank": 4,
    "client-learning-rate": 0.0025,
    "num-server-rounds": 150,
}
NEWS = {
    "dense": {"method": "dense"},
    "dense-int4-decay": {
        "method": "dense",
        "value-format": "int4",
        "init": "shared-seed",
        "evaluate-every": 10,
        **FALLING,
    },
    "rank2-int8": {
        "method": "dense",
        "lora-rank": 2,
        "value-format": "int8",
        "init": "shared-seed",
    },
    "flasc-4-4-int8": news(1 / 4, 1 / 4, "int8", 40),
    "flasc-4-16-int4": news(1 / 4, 1 / 16, "int4", 40),
    "flasc-4-64-int4-fast": news(1 / 4, 1 / 64, "int4", 40, server_learning_rate=0.01),
    "flasc-16-16-int8": news(1 / 16, 1 / 16, "int8", 80),
    "rank4-flasc-2-2-int4": news(
        1 / 2,
        1 / 2,
        "int4",
        150,
        lora_rank=4,
        client_learning_rate=0.0025,
        evaluate_every=10,
    ),
    "rank4-flasc-2-4-int4-decay": RANK4,
    "rank4-int4-decay": {**RANK4, **EVERYTHING},
    "rank4-flasc-4-4-int4-decay": {**RANK4, "download-density": 1 / 4},
    "rank2-flasc-2-4-int4-decay": FEWEST,
    "rank2-int4-decay": {**FEWEST, **EVERYTHING},
    "rank2-flasc-2-4-step-decay": {
        **FEWEST,
        "value-format": "step",
        "num-server-rounds": 100,
    },
    # Figure 2 at rank 16 and dense's own rates, after 40 rounds.
    "flasc-4-4-bfloat16": news(1 / 4, 1 / 4, "bfloat16", 40),
    "flasc-16-16-bfloat16": news(1 / 16, 1 / 16, "bfloat16", 40),
    "flasc-64-64-int8": news(1 / 64, 1 / 64, "int8", 40),
    "flasc-64-64-bfloat16": news(1 / 64, 1 / 64, "bfloat16", 40),
    "flasc-16-16-int8-fan-in": news(1 / 16, 1 / 16, "int8", 40, score="fan-in"),
    "sparse-adapter4": news(1 / 4, 1 / 4, "bfloat16", 40, method="sparse-adapter"),
    # A quarter is reached after 28 rounds.
    "adapter-lth4": news(
        1 / 4,
        1 / 4,
        "bfloat16",
        40,
        method="adapter-lth",
        download_density_decay=0.95,
    ),
}

# Figure 2 on the digits: 20 rounds of 10 of 20 clients.
DIGITS = {
    "dense": {"method": "dense"},
    "rank1": {"method": "dense", "lora-rank": 1},
    "rank4": {"method": "dense", "lora-rank": 4},
    **{
        f"flasc{parts}-{values}": both(1 / parts, values)
        for parts in (4, 16, 64)
        for values in ("bfloat16", "int8")
    },
    **{
        f"flasc{parts}-{values}": both(1 / parts, values)
        for parts in (1, 4, 16)
        for values in ("int4", "step")
    },
    "sparse-adapter4": {"method": "sparse-adapter"},
    "fedselect4": {"method": "fedselect"},
    # Without decay it would stay dense; a quarter is reached after 14 rounds.
    "adapter-lth4": {"method": "adapter-lth", "download-density-decay": 0.9},
}

# Figure 5: four times fewer parameters by rank, or by density. In one value format.
ALPHAS = (100, 1, 0.1, 0.01)
HETEROGENEITY = {
    f"{name}-alpha{alpha:g}": {**own, "dirichlet-alpha": alpha}
    for alpha in ALPHAS
    for name, own in {
        "rank4": {"method": "dense", "lora-rank": 4, "value-format": "bfloat16"},
        "flasc4": both(1 / 4),
    }.items()
}

# Devices of three tiers: densities 1/16, 1/4 and 1, or ranks 1, 4 and 16.
RULES = (
    "zero-padding",
    "replication",
    "stacking",
    "svd",
    "florist",
    "rank-partitioned",
    "fair",
    "alternating",
)
TIERED = {
    "flasc-tiers": {"method": "flasc-tiers", "value-format": "float32"},
    "hetlora-tiers": {"method": "hetlora-tiers"},
    **{
        f"{rule}-ranks": {"method": "hetlora-tiers", "aggregation": rule}
        for rule in RULES
    },
    # Rules that replace the factors step by SGD; these averages do, too.
    **{
        f"{rule}-sgd-ranks": {
            "method": "hetlora-tiers",
            "aggregation": rule,
            "server-optimizer": "sgd",
        }
        for rule in ("zero-padding", "replication")
    },
}

# What two cores can do of the profiles.
SHORT = {
    "max-length": 32,
    "num-server-rounds": 10,
    "evaluate-every": 2,
    "validation-fraction": 0.02,
}
# Byun & Lee: a tenth of the clients gets rank 20, all others have rank 5.
RANKS = {
    "replication": {},
    "zero-padding": {"aggregation": "zero-padding"},
    "frobenius": {"aggregation": "frobenius"},
    **{
        f"all-rank{rank}": {
            "method": "dense",
            "lora-rank": rank,
            "server-optimizer": "sgd",
        }
        for rank in (5, 7, 20)
    },
}

# The same with error bars: four steps a client, so that two cores can make twelve runs.
# The clients' rate is one of three that were tried with everybody at rank 5, seed 0.
UNEQUAL = {
    rule: {"aggregation": rule}
    for rule in ("replication", "zero-padding", "rank-partitioned", "florist")
}
FOUR_STEPS = {
    "max-length": 32,
    "max-steps": 4,
    "precision": "bfloat16",
    "num-server-rounds": 20,
    "evaluate-every": 1,
    "validation-fraction": 0.002,
    "client-learning-rate": 0.002,
}

EXPERIMENTS = {
    "news": Experiment(
        NEWS,
        common={"stop-accuracy": 0.0, "checkpoint-every": 20},
        profile="small-20newsgroups-350.toml",
        clients=350,
    ),
    "digits": Experiment(DIGITS, common={"num-server-rounds": 20}),
    "cores-digits": Experiment(CORES_DIGITS, common={"num-server-rounds": 20}),
    "cores-news": Experiment(
        CORES_NEWS,
        common={"checkpoint-every": 10},
        profile="small-20newsgroups-fewest-bytes.toml",
        clients=350,
        beside={
            "news": (
                "dense",
                "rank2-int4-decay",
                "rank2-flasc-2-4-int4-decay",
                "rank2-flasc-2-4-step-decay",
            )
        },
    ),
    "silo-digits": Experiment(SILO_DIGITS, common={"fraction-train": 1.0}, clients=10),
    "silo-news": Experiment(
        SILO_NEWS,
        common={"checkpoint-every": 20},
        profile="silo-20newsgroups-ef.toml",
        clients=10,
        seeds=[0],
    ),
    "heterogeneity": Experiment(
        HETEROGENEITY,
        # FLASC's own: the usual Dirichlet finds no partition of 20 at alpha 0.01.
        common={"num-server-rounds": 20, "partitioner": "flasc-dirichlet"},
    ),
    "tiers": Experiment(TIERED, common={"num-server-rounds": 20}),
    "agnews": Experiment(
        RANKS, common=SHORT, profile="small-agnews.toml", clients=100, seeds=[0]
    ),
    "agnews-unequal": Experiment(
        UNEQUAL, common=FOUR_STEPS, profile="small-agnews.toml", clients=100
    ),
    "dbpedia": Experiment(
        RANKS, common=SHORT, profile="small-dbpedia.toml", clients=100, seeds=[0]
    ),
    "privacy": Experiment(
        {
            f"{name}-epsilon{epsilon}": {**own, "dp-noise-multiplier": noise}
            for epsilon, noise in {**NOISE, "inf": 0.0}.items()
            for name, own in COMPARED.items()
        },
        common=PRIVATE,
        clients=900,
    ),
}

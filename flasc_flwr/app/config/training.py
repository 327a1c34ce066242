"""Settings of what happens on a client: training, its device, local privacy."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import choice, integer, number, switch
from flasc_flwr.core.settings import setting

CLIENT_OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Local training, as the run config gives it."""

    client_optimizer: str = setting(
        "sgd",
        choice(*CLIENT_OPTIMIZERS),
        "optimizer of the clients; sgd has momentum 0.9",
    )
    client_learning_rate: float = setting(
        0.01, number("(0, inf)"), "learning rate of the clients"
    )
    local_epochs: int = setting(
        2, integer(1), "passes over a client's examples in a round", unit="epochs"
    )
    max_steps: int = setting(
        0,
        integer(0),
        "most optimizer steps of a client in a round; 0 is no limit",
        unit="steps",
    )
    batch_size: int = setting(
        16, integer(1), "examples in a training batch", unit="examples"
    )
    device: str = setting(
        "auto",
        choice("auto", "cpu", "cuda"),
        "auto is a GPU if there is one",
        may_change=True,
    )
    precision: str = setting(
        "float32", choice("float32", "bfloat16"), "precision of the forward pass"
    )
    quantize: str = setting(
        "none",
        choice("none", "8bit", "4bit"),
        "quantize the backbone, on a GPU",
        used_by="all tasks but `digits`",
    )
    compile: bool = setting(False, switch(), "use torch.compile")


@dataclass(frozen=True, kw_only=True)
class LocalPrivacySettings:
    """Local differential privacy, which each client applies to its own update."""

    local_dp_epsilon: float = setting(
        0.0, number("[0, 1)"), "epsilon of one round; 0 turns local privacy off"
    )
    local_dp_delta: float = setting(1e-5, number("(0, 1)"), "delta of one round")
    local_dp_clip_norm: float = setting(
        1.0, number("(0, inf)"), "L2 norm that the client scales its update down to"
    )

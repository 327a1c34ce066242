"""Settings of what happens on a client: training, its device, local privacy."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import automatic, choice, either, integer, number, switch
from flasc_flwr.core.settings import setting

CLIENT_OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "linear")

_ADAMW = 'client-optimizer = "adamw"'
_SCHEDULED = "schedules other than `constant`"
_PRETRAINED = "all tasks but `digits`"


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
    client_learning_rate_schedule: str = setting(
        "constant",
        choice(*SCHEDULES),
        "how that rate falls over the rounds",
    )
    client_learning_rate_floor: float = setting(
        0.02,
        number("(0, 1]"),
        "rate of the last round, as a fraction of client-learning-rate",
        used_by=_SCHEDULED,
    )
    client_warmup_rounds: int = setting(
        0, integer(0), "rounds over which that rate rises at the start", unit="rounds"
    )
    client_weight_decay: float | str = setting(
        "auto",
        automatic(number("[0, inf)")),
        "weight decay of the clients; auto is 0.01 for adamw, 0 for sgd",
    )
    client_beta1: float = setting(
        0.9,
        number("[0, 1)"),
        "decay of the mean of the gradients",
        used_by=_ADAMW,
    )
    client_beta2: float = setting(
        0.999,
        number("[0, 1)"),
        "decay of the mean of their squares",
        used_by=_ADAMW,
    )
    client_max_gradient_norm: float = setting(
        0.0,
        number("[0, inf)"),
        "L2 norm that larger gradients are scaled down to; 0 is unlimited",
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
    gradient_accumulation: int = setting(
        1,
        integer(1),
        "batches whose gradients make one optimizer step",
        unit="batches",
    )
    gradient_checkpointing: bool = setting(
        False,
        switch(),
        "compute layers again in the backward pass instead of keeping their outputs: "
        "less memory, about a third more time",
        used_by=_PRETRAINED,
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
    backbone_precision: str = setting(
        "auto",
        choice("auto", "bfloat16", "float32"),
        "precision in which the frozen backbone is kept; auto is bfloat16 if it was "
        "saved so, else float32",
        used_by=_PRETRAINED,
    )
    quantize: str = setting(
        "none",
        choice("none", "8bit", "4bit"),
        "keep the linear layers of the backbone in so many bits",
        used_by=_PRETRAINED,
    )
    compile: bool = setting(False, switch(), "use torch.compile")


@dataclass(frozen=True, kw_only=True)
class LocalPrivacySettings:
    """Local differential privacy, which each client applies to its own update."""

    local_dp_epsilon: float = setting(
        0.0,
        # With less, the noise is larger than any float32.
        either(0.0, number("[1e-6, 1)")),
        "epsilon of one round; 0 turns local privacy off",
    )
    local_dp_delta: float = setting(1e-5, number("(0, 1)"), "delta of one round")
    local_dp_clip_norm: float = setting(
        1.0,
        number("[1e-20, 1e20]"),
        "L2 norm that the client scales its update down to",
    )

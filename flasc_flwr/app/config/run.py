"""Settings of the run: its length, its seed and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from flasc_flwr.core.ranges import folder, integer, number, several, text
from flasc_flwr.core.settings import same_setting, setting
from flasc_flwr.flower.clients.sampling import Sampling

TRACKERS = (
    "tensorboard",
    "wandb",
    "mlflow",
    "comet_ml",
    "aim",
    "trackio",
)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The run and its output, as the run config gives them."""

    num_server_rounds: int = setting(
        40, integer(1), "rounds of the run", unit="rounds", may_change=True
    )
    round_timeout: float = setting(
        600.0,
        number("(0, inf)"),
        "how long a round waits for its replies",
        unit="seconds",
        may_change=True,
    )
    seed: int = same_setting(Sampling, "seed")
    evaluate_every: int = setting(
        1,
        integer(1),
        "rounds from one evaluation at the server to the next",
        unit="rounds",
        may_change=True,
    )
    evaluate_examples: int = setting(
        0,
        integer(0),
        "test rows in each evaluation; 0 is all",
        unit="rows",
        may_change=True,
    )
    export_every: int = setting(
        0,
        integer(0),
        "rounds from one saved adapter to the next; 0 saves only the last",
        unit="rounds",
        may_change=True,
    )
    checkpoint_every: int = setting(
        10,
        integer(0),
        "rounds from one checkpoint to the next; 0 makes none",
        unit="rounds",
        may_change=True,
    )
    resume: str = setting(
        "",
        text(),
        'folder of a run to resume, or "latest"; "" starts a new run',
        may_change=True,
    )
    trackers: str = setting(
        "",
        several(*TRACKERS),
        'where metrics are also sent, such as "tensorboard,mlflow"',
        may_change=True,
    )
    output_dir: str = setting(
        "~/flasc-runs",
        folder(),
        "where the run makes its folder",
        may_change=True,
    )

"""The run config: every key with its default, its range and what it means.

``[tool.flwr.app.config]`` in ``pyproject.toml`` declares the same keys with the same
defaults (a test holds the two together); ``flwr run --run-config`` overrides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from flasc_flwr.core.aggregation import AGGREGATIONS, WEIGHTINGS
from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.initial import INITS
from flasc_flwr.core.methods.method import RANK_ASSIGNMENTS, Method
from flasc_flwr.core.methods.scores import QUOTAS, SCORES
from flasc_flwr.core.methods.table import METHODS, compose
from flasc_flwr.core.methods.tiers import TIERS
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS, Decaying, ServerOptimizer
from flasc_flwr.core.privacy import CLIPS, SAMPLINGS, Privacy
from flasc_flwr.core.ranges import (
    Range,
    automatic,
    choice,
    folder,
    fraction,
    integer,
    number,
    several,
    switch,
    text,
)
from flasc_flwr.core.ranks import RANK_SCALES

CLIENT_OPTIMIZERS = ("sgd", "adamw")
TASKS = ("digits", "text-classification", "causal-lm", "image-classification")
HEADS = ("stock", "mean")
PARTITIONERS = ("dirichlet", "flasc-dirichlet", "iid", "pathological", "natural-id")
TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "aim", "trackio")


_FREE = (
    "checkpoint-",
    "device",
    "evaluate-",
    "export-",
    "num-server-rounds",
    "output-dir",
    "resume",
    "round-timeout",
    "stop-",
    "trackers",
)


class ConfigError(ValueError):
    """A run config that cannot be run: the key, its value, and what is allowed."""


def _option(default: Any, range: Range) -> Any:
    return field(default=default, metadata={"range": range})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run's settings, checked. Field ``lora_rank`` is the key ``lora-rank``."""

    method: str = _option("flasc", choice(*METHODS))
    task: str = _option("digits", choice(*TASKS))
    model: str = _option("", text())
    dataset: str = _option("", text())
    dataset_config: str = _option("", text())
    train_split: str = _option("train", text())
    test_split: str = _option("test", text())
    validation_fraction: float = _option(0.1, number("[0, 1)"))
    text_column: str = _option("text", text())
    image_column: str = _option("image", text())
    label_column: str = _option("label", text())
    user_column: str = _option("", text())
    classes: int = _option(0, integer(0))
    class_names: str = _option("", text())
    multi_label: bool = _option(False, switch())
    max_length: int = _option(128, integer(1))
    augment: bool = _option(False, switch())
    head: str = _option("stock", choice(*HEADS))
    num_server_rounds: int = _option(40, integer(1))
    fraction_train: float = _option(0.5, number("(0, 1]"))
    fraction_evaluate: float = _option(0.0, number("[0, 1]"))
    min_nodes: int = _option(2, integer(1))
    round_timeout: float = _option(600.0, number("(0, inf)"))
    seed: int = _option(0, integer(0))

    lora_rank: int = _option(16, integer(1))
    lora_alpha: float = _option(16.0, number("(0, inf)"))
    lora_dropout: float = _option(0.0, number("[0, 0.95]"))
    lora_targets: str = _option("auto", text())
    saved_modules: str = _option("auto", text())
    adapter: str = _option("", text())

    download_density: float = _option(0.25, fraction("(0, 1]"))
    upload_density: float = _option(0.25, fraction("(0, 1]"))
    download_density_decay: float = _option(1.0, number("(0, 1]"))
    upload_density_decay: float = _option(1.0, number("(0, 1]"))
    density_decay_every: int = _option(1, integer(1))
    dense_rounds: int | str = _option("auto", automatic(integer(0)))
    score: str = _option("auto", choice("auto", *SCORES))
    quota: str = _option("auto", choice("auto", *QUOTAS))
    init: str = _option("auto", choice("auto", *INITS))
    value_format: str = _option("auto", choice("auto", *VALUE_FORMATS))

    tiers: str = _option("auto", choice("auto", *TIERS))
    rank_assignment: str = _option("auto", choice("auto", *RANK_ASSIGNMENTS))
    low_rank: int = _option(4, integer(1))
    high_rank_fraction: float = _option(0.1, number("(0, 1]"))
    rank_scale: str = _option("auto", choice("auto", *RANK_SCALES))
    rank_pruning_decay: float = _option(1.0, number("(0, 1]"))
    rank_pruning_penalty: float = _option(0.0, number("[0, inf)"))

    aggregation: str = _option("auto", choice("auto", *AGGREGATIONS))
    exact_residual: bool | str = _option("auto", automatic(switch()))
    weighting: str = _option("uniform", choice(*WEIGHTINGS))
    server_optimizer: str = _option("auto", choice("auto", *SERVER_OPTIMIZERS))
    server_learning_rate: float | str = _option("auto", automatic(number("(0, inf)")))
    server_learning_rate_decay: float = _option(1.0, number("(0, 1]"))

    client_optimizer: str = _option("sgd", choice(*CLIENT_OPTIMIZERS))
    client_learning_rate: float = _option(0.01, number("(0, inf)"))
    local_epochs: int = _option(2, integer(1))
    batch_size: int = _option(16, integer(1))
    device: str = _option("auto", choice("auto", "cpu", "cuda"))
    precision: str = _option("float32", choice("float32", "bfloat16"))
    quantize: str = _option("none", choice("none", "8bit", "4bit"))
    compile: bool = _option(False, switch())

    partitioner: str = _option("dirichlet", choice(*PARTITIONERS))
    classes_per_partition: int = _option(2, integer(1))
    dirichlet_alpha: float = _option(1.0, number("(0, inf)"))
    evaluate_every: int = _option(1, integer(1))
    evaluate_examples: int = _option(0, integer(0))
    export_every: int = _option(0, integer(0))
    checkpoint_every: int = _option(10, integer(0))
    resume: str = _option("", text())
    trackers: str = _option("", several(*TRACKERS))

    min_replies: int = _option(1, integer(1))
    oversample: float = _option(1.0, number("[1, inf)"))
    max_update_norm: float = _option(0.0, number("[0, inf)"))
    update_norm_action: str = _option("reject", choice("reject", "clip"))
    max_examples: float = _option(1e7, number("(0, inf)"))
    stop_accuracy: float = _option(0.0, number("[0, 1]"))
    stop_patience: int = _option(0, integer(0))
    stop_megabytes: float = _option(0.0, number("[0, inf)"))
    stop_client_megabytes: float = _option(0.0, number("[0, inf)"))

    dp_clip_norm: float = _option(0.0, number("[0, inf)"))
    dp_noise_multiplier: float = _option(0.0, number("[0, inf)"))
    dp_population: int = _option(0, integer(0))
    dp_delta: float | str = _option("auto", automatic(number("(0, 1)")))
    dp_clip: str = _option("after", choice(*CLIPS))
    dp_sampling: str = _option("fixed", choice(*SAMPLINGS))
    dp_max_epsilon: float = _option(0.0, number("[0, inf)"))
    dp_quantile: float = _option(0.0, number("[0, 1)"))
    dp_quantile_rate: float = _option(0.2, number("(0, inf)"))
    dp_count_noise: float = _option(1.0, number("(0, inf)"))
    dp_noise_seed: int | str = _option("auto", automatic(integer(0)))
    local_dp_epsilon: float = _option(0.0, number("[0, 1)"))
    local_dp_delta: float = _option(1e-5, number("(0, 1)"))
    local_dp_clip_norm: float = _option(1.0, number("(0, inf)"))

    output_dir: str = _option("~/flasc-runs", folder())

    @classmethod
    def parse(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Check a run config, once and whole.

        Parameters
        ----------
        run_config : Mapping[str, Any]
            Kebab-case keys; a key that is missing has its default.

        Raises
        ------
        ConfigError
            If a key is unknown, a value is not allowed, or parts of the method do not
            fit together. Every such key is named, with its value and what is allowed.
        """
        ranges = {option.name: option.metadata["range"] for option in fields(cls)}
        checked: dict[str, Any] = {}
        wrong = []
        for key, value in run_config.items():
            name = key.replace("-", "_")
            if name not in ranges or "_" in key:
                wrong.append(_unknown(key, value, list(ranges)))
                continue
            checked[name] = ranges[name].check(value)
            if checked[name] is None:
                wrong.append(ranges[name].refusal(key, value))
        if wrong:
            raise ConfigError("The run config is wrong:\n  " + "\n  ".join(wrong))
        config = cls(**checked)
        try:
            config.compose()
            config.make_privacy()
        except ValueError as error:
            raise ConfigError(f"The run config is wrong:\n  {error}") from None
        return config

    def compose(self) -> Method:
        """Return the method, with the parts that the run config puts into it.

        Raises
        ------
        ValueError
            If they do not fit together.
        """
        return compose(
            self.method,
            score=self.score,
            quota=self.quota,
            init=self.init,
            dense_rounds=self.dense_rounds,
            tiers=self.tiers,
            rank_assignment=self.rank_assignment,
            rank_scale=self.rank_scale,
            aggregation=self.aggregation,
            exact_residual=self.exact_residual,
            server_optimizer=self.server_optimizer,
        )

    def make_server_optimizer(self) -> ServerOptimizer:
        """Return the server optimizer; ``auto`` is 1 for ``sgd``, 0.01 for others."""
        name = self.compose().server_optimizer
        rate = self.server_learning_rate
        if isinstance(rate, str):
            rate = 1.0 if name == "sgd" else 0.01
        optimizer = SERVER_OPTIMIZERS[name](learning_rate=rate)
        if self.server_learning_rate_decay == 1:
            return optimizer
        decay = self.server_learning_rate_decay
        return Decaying(optimizer=optimizer, decay=decay)

    def make_privacy(self) -> Privacy | None:
        """Return what makes the run private; None where nothing is asked for.

        Raises
        ------
        ValueError
            If the settings do not fit together, noise without clipping among them.
        """
        if not self.dp_clip_norm and not self.dp_noise_multiplier:
            for option in fields(self):
                value = getattr(self, option.name)
                if option.name.startswith("dp_") and value != option.default:
                    raise ValueError(
                        f"{option.name.replace('_', '-')} is {value!r} without a "
                        "dp-clip-norm, which makes nothing private: allowed is a "
                        "dp-clip-norm above 0"
                    )
            return None
        delta, seed = self.dp_delta, self.dp_noise_seed
        return Privacy(
            clip_norm=self.dp_clip_norm,
            noise_multiplier=self.dp_noise_multiplier,
            population=self.dp_population,
            delta=None if isinstance(delta, str) else delta,
            clip=self.dp_clip,
            sampling=self.dp_sampling,
            max_epsilon=self.dp_max_epsilon,
            quantile=self.dp_quantile,
            quantile_rate=self.dp_quantile_rate,
            count_noise=self.dp_count_noise,
            noise_seed=None if isinstance(seed, str) else seed,
        )

    def shared_by_resumed(self) -> dict[str, Any]:
        """Return the settings that a run has in common with one that it goes on from.

        All but those that say how long it runs, what it leaves behind, and where.
        """
        return {k: v for k, v in self.to_dict().items() if not k.startswith(_FREE)}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings under their kebab-case keys."""
        return {
            option.name.replace("_", "-"): getattr(self, option.name)
            for option in fields(self)
        }


def _unknown(key: str, value: Any, names: list[str]) -> str:
    keys = [name.replace("_", "-") for name in names]
    close = get_close_matches(key, keys, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"{key} is not a key of the run config, {hint}got {value!r}; the keys are "
        + ", ".join(keys)
    )

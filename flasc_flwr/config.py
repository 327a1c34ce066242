"""The run config: every key with its default, its range and what it means.

``[tool.flwr.app.config]`` in ``pyproject.toml`` declares the same keys with the same
defaults (a test holds the two together); ``flwr run --run-config`` overrides them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

from flasc_flwr.codec import VALUE_FORMATS
from flasc_flwr.methods import METHODS
from flasc_flwr.optimizers import SERVER_OPTIMIZERS

WEIGHTINGS = ("uniform", "examples")
CLIENT_OPTIMIZERS = ("sgd", "adamw")
TASKS = ("digits",)


class ConfigError(ValueError):
    """A run config that cannot be run: the key, its value, and what is allowed."""


@dataclass(frozen=True)
class _Range:
    """What a key may be: `check` gives the value back in its type, or None."""

    allowed: str
    check: Callable[[Any], Any]


def _choice(*names: str) -> _Range:
    return _Range(
        "one of " + ", ".join(repr(name) for name in names),
        lambda value: value if value in names else None,
    )


def _whole(least: int) -> _Range:
    def check(value: Any) -> int | None:
        return value if type(value) is int and value >= least else None

    return _Range(f"a whole number, at least {least}", check)


def _number(
    allowed: str, low: float, high: float = float("inf"), *, above: bool = True
) -> _Range:
    def check(value: Any) -> float | None:
        if type(value) not in (int, float) or not isfinite(value):
            return None
        inside = low < value if above else low <= value
        return float(value) if inside and value <= high else None

    return _Range(allowed, check)


def _density() -> _Range:
    number = _number("", 0, 1)

    def check(value: Any) -> float | None:
        if isinstance(value, str) and "/" in value:
            try:
                value = float(Fraction(value.replace(" ", "")))
            except (ValueError, ZeroDivisionError):
                return None
        result: float | None = number.check(value)
        return result

    return _Range("a number in (0, 1], or a fraction such as '1/4'", check)


def _text() -> _Range:
    return _Range("text", lambda value: value if isinstance(value, str) else None)


def _folder() -> _Range:
    def check(value: Any) -> str | None:
        if not isinstance(value, str) or not Path(value).expanduser().is_absolute():
            return None
        return value

    # A relative path would be one of the process that started the SuperLink.
    return _Range("an absolute path, or one that begins with '~'", check)


def _option(default: Any, range: _Range) -> Any:
    return field(default=default, metadata={"range": range})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run's settings, checked. Field ``lora_rank`` is the key ``lora-rank``."""

    method: str = _option("flasc", _choice(*METHODS))
    task: str = _option("digits", _choice(*TASKS))
    num_server_rounds: int = _option(40, _whole(1))
    fraction_train: float = _option(0.5, _number("a number in (0, 1]", 0, 1))
    fraction_evaluate: float = _option(
        0.0, _number("a number in [0, 1]", 0, 1, above=False)
    )
    min_nodes: int = _option(2, _whole(1))
    round_timeout: float = _option(600.0, _number("a number above 0", 0))
    seed: int = _option(0, _whole(0))

    lora_rank: int = _option(16, _whole(1))
    lora_alpha: float = _option(16.0, _number("a number above 0", 0))
    lora_dropout: float = _option(
        0.0, _number("a number in [0, 0.95]", 0, 0.95, above=False)
    )

    download_density: float = _option(0.25, _density())
    upload_density: float = _option(0.25, _density())
    value_format: str = _option("auto", _choice("auto", *VALUE_FORMATS))

    weighting: str = _option("uniform", _choice(*WEIGHTINGS))
    server_optimizer: str = _option("adamw", _choice(*SERVER_OPTIMIZERS))
    server_learning_rate: float = _option(0.01, _number("a number above 0", 0))

    client_optimizer: str = _option("sgd", _choice(*CLIENT_OPTIMIZERS))
    client_learning_rate: float = _option(0.02, _number("a number above 0", 0))
    local_epochs: int = _option(2, _whole(1))
    batch_size: int = _option(16, _whole(1))

    dirichlet_alpha: float = _option(1.0, _number("a number above 0", 0))
    evaluate_every: int = _option(1, _whole(1))
    output_dir: str = _option("~/flasc-runs", _folder())

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
            If a key is unknown or a value is not allowed. Every such key is named,
            with its value and what is allowed.
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
                wrong.append(f"{key} = {value!r}: allowed is {ranges[name].allowed}")
        if wrong:
            raise ConfigError("The run config is wrong:\n  " + "\n  ".join(wrong))
        return cls(**checked)

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
    return f"{key} = {value!r}: unknown key, {hint}allowed keys are {', '.join(keys)}"

"""A grid of settings, as jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from flasc_flwr.app.cli.common import parsed
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.runs.jobs import Job

_NO_FILE_NAME = re.compile(r"[^\w.=+-]+")


def axes(named: Mapping[str, str], others: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each key.

    Parameters
    ----------
    named : Mapping[str, str]
        Values, separated by commas, by key.
    others : Iterable[str]
        More of them, as ``key=v1,v2``.

    Raises
    ------
    ValueError
        If a word is no such text, or a key stands there twice.
    """
    texts = dict(named)
    for word in others:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise ValueError(f"--grid is {word!r}, allowed is KEY=V1,V2")
        if key in texts:
            raise ValueError(f"--grid {word!r}: {key} has its values already")
        texts[key] = values
    return {key: [_value(v) for v in text.split(",")] for key, text in texts.items()}


def jobs(
    base: Mapping[str, Any], values: Mapping[str, list[Any]], clients: int
) -> dict[str, Job]:
    """Return one job for each combination, by a name that tells it.

    Parameters
    ----------
    base : Mapping[str, Any]
        Settings that all have.
    values : Mapping[str, list[Any]]
        The values of each key.
    clients : int
        Number of clients.

    Raises
    ------
    ConfigError
        If one cannot be run.
    ValueError
        If there is no key, or two combinations are the same run.
    """
    if not values:
        raise ValueError("a sweep needs values: --method flasc,dense, or --grid KEY=V1")
    if taken := {"output-dir", "resume"} & {*base, *values}:
        raise ValueError(f"{', '.join(sorted(taken))}: a sweep sets that itself")
    made: dict[str, Job] = {}
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        settings = {**base, **chosen}
        resolved = RunConfig.parse(settings).to_dict()
        parts = [f"{key}={resolved[key]}" for key in chosen]
        name = _NO_FILE_NAME.sub("-", "_".join(parts))
        if name in made:
            raise ValueError(f"two runs of the grid are the same: {name}")
        made[name] = Job(settings=settings, clients=clients)
    return made


def _value(text: str) -> Any:
    """Return a value as the run config has it: a number, a switch, or text."""
    try:
        return parsed([f"value={text.strip()}"])["value"]
    except ValueError:
        return parsed([f"value='{text.strip()}'"])["value"]

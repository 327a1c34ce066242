"""All combinations of values of some settings, as jobs of a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from flasc_flwr.app.cli.common import parsed
from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.runs.jobs import Job

_NOT_IN_FILE_NAMES = re.compile(r"[^\w.=+-]+")


def axes(named: Mapping[str, str], others: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each key.

    Parameters
    ----------
    named : Mapping[str, str]
        Comma-separated values by key, from options such as ``--seed``.
    others : Iterable[str]
        Texts of the form ``key=v1,v2``, from ``--grid``.

    Raises
    ------
    ValueError
        If a text has another form, or a key is given twice.
    """
    texts = dict(named)
    for word in others:
        key, equals, values = word.partition("=")
        if not equals or not key or not values:
            raise ValueError(f"--grid must be KEY=V1,V2, got {word!r}")
        if key in texts:
            raise ValueError(f"--grid {word!r}: {key} is given twice")
        texts[key] = values
    return {key: [_value(v) for v in text.split(",")] for key, text in texts.items()}


def jobs(
    base: Mapping[str, Any], values: Mapping[str, list[Any]], clients: int
) -> dict[str, Job]:
    """Return one job per combination, named after its values.

    Parameters
    ----------
    base : Mapping[str, Any]
        Settings shared by all.
    values : Mapping[str, list[Any]]
        The values of each key.
    clients : int
        Number of clients.

    Raises
    ------
    ConfigError
        If the settings of one are not valid.
    ValueError
        If there is no key, or two combinations are the same run.
    """
    if not values:
        raise ValueError(
            "a sweep needs values, such as --method flasc,dense or --grid KEY=V1,V2"
        )
    if taken := {"output-dir", "resume"} & {*base, *values}:
        raise ValueError(f"{', '.join(sorted(taken))}: set by the sweep, remove it")
    made: dict[str, Job] = {}
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        settings = {**base, **chosen}
        resolved = RunConfig.parse(settings).to_dict()
        parts = [f"{key}={resolved[key]}" for key in chosen]
        name = _NOT_IN_FILE_NAMES.sub("-", "_".join(parts))
        if name in made:
            raise ValueError(f"two combinations are the same run: {name}")
        made[name] = Job(settings=settings, clients=clients)
    return made


def _value(text: str) -> Any:
    """Return a value with the type of the run config: number, true/false, or text."""
    try:
        return parsed([f"value={text.strip()}"])["value"]
    except ValueError:
        return parsed([f"value='{text.strip()}'"])["value"]

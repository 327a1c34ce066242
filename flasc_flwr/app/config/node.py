"""The settings of a device: the keys of its ``--node-config`` that the app reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from flasc_flwr.core.printable import printable
from flasc_flwr.flower.device_budget import device_keys
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.node_config import (
    NODE_CONFIG,
    NodeConfigError,
    refuse_near_misses,
)

OWN_DATA = "data-path"
"""Key of the device's own data."""

_MOST_FILES = 10_000

PARTITION = ("partition-id", "num-partitions")
"""Keys that Flower's simulation sets, too."""


def node_keys() -> frozenset[str]:
    """Return every key that the app and `flasc_mod` read."""
    return device_keys() | {OWN_DATA, *PARTITION}


def check_node_config(node_config: Mapping[str, Any]) -> None:
    """Check a device's settings.

    The app knows all its keys. `flasc_mod` in somebody else's app refuses only what is
    nearly one of its own.

    Raises
    ------
    ValueError
        If nobody reads a key, or a limit of the device is out of range. No value of a
        key that the server does not learn is in the message.
    """
    known = node_keys()
    refuse_near_misses(node_config, known)
    for key in node_config:
        if key not in known:
            raise NodeConfigError(
                f"{printable(key, 100)} is not a key of {NODE_CONFIG}, "
                f"allowed are {', '.join(sorted(known))}"
            )
    DeviceLimits.of(node_config)


def partition_of(node_config: Mapping[str, Any]) -> tuple[int, int]:
    """Return a device's part of the data, and the number of parts.

    Raises
    ------
    ValueError
        If they are not set.
    """
    partition, total = (node_config.get(key) for key in PARTITION)
    if isinstance(partition, int) and isinstance(total, int) and 0 <= partition < total:
        return partition, total
    raise ValueError(
        "partition-id and num-partitions must be integers with 0 <= partition-id < "
        f"num-partitions, got {partition!r} and {total!r}: set --node-config "
        "'partition-id=0 num-partitions=2' or 'data-path=\"/a/file\"'"
    )


def private_texts(node_config: Mapping[str, Any]) -> set[str]:
    """Return texts of a device that the server does not learn: where its data is.

    The path, as it is written and in full, and the names of the files in it.
    """
    given = node_config.get(OWN_DATA)
    if given is None:
        return set()
    path = Path(os.path.expandvars(str(given))).expanduser()
    inside = islice(path.rglob("*"), _MOST_FILES) if path.is_dir() else ()
    paths = (path, path.absolute(), path.resolve(), *inside)
    # The names of folders are ordinary words, such as "train".
    names = (each.name for each in paths if not each.is_dir())
    return {str(given), *map(str, paths), *names}

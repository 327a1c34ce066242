"""The settings of a device: the keys of its ``--node-config`` that the app reads."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.mod import device_keys
from flasc_flwr.flower.node_config import refuse_near_misses

OWN_DATA = "data-path"
"""Key of the device's own data."""

_MOST_FILES = 10_000

PARTITION = ("partition-id", "num-partitions")
"""Keys that Flower's simulation sets, too."""


def node_keys() -> frozenset[str]:
    """Return every key that the app and `flasc_mod` read."""
    return device_keys() | {OWN_DATA, *PARTITION}


def check_node_config(node_config: Mapping[str, Any]) -> list[str]:
    """Check a device's settings; return a line for each key that nobody here reads.

    Raises
    ------
    ValueError
        If a key is nearly one of ours, or a limit of the device is out of range. No
        value of a key that the server does not learn is in the message.
    """
    known = node_keys()
    refuse_near_misses(node_config, known)
    DeviceLimits.of(node_config)
    return [_unread(key, known) for key in node_config if key not in known]


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


def _unread(key: str, known: Collection[str]) -> str:
    nearest = get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    hint = f" (nearest: {nearest[0]})" if nearest else ""
    return f"{key} of --node-config is not read by flasc-flwr{hint}"

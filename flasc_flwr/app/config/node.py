"""The settings of a device: the keys of its ``--node-config`` that the app reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.mod import device_keys
from flasc_flwr.flower.node_config import refuse_near_misses

OWN_DATA = "data-path"
"""Key of the device's own data."""

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


def _unread(key: str, known: Collection[str]) -> str:
    nearest = get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    hint = f" (nearest: {nearest[0]})" if nearest else ""
    return f"{key} of --node-config is not read by flasc-flwr{hint}"

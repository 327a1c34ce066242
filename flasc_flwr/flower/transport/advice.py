"""What to change about a ClientApp, as far as its error or reply shows it."""

from __future__ import annotations

from collections.abc import Collection

from flwr.app import Error

from flasc_flwr.flower.wire import STYPE

ADD_THE_MOD = (
    "add flasc_mod to the ClientApp, before its other mods: "
    "ClientApp(mods=[flasc_mod, ...])"
)

_KEY_ERROR = "<class 'KeyError'>:<'"
"""How the reason of an app begins that did not find an array."""


def advice_on(error: Error, in_payloads: Collection[str]) -> str | None:
    """Return what to change about a client's error; None if that is not known.

    Parameters
    ----------
    error : Error
        What the client replied.
    in_payloads : Collection[str]
        Names of arrays that it did not find if its app runs without flasc_mod.
    """
    reason = error.reason or ""
    quoted = reason.removeprefix(_KEY_ERROR).removesuffix("'>").strip().strip("\"'")
    if STYPE in reason or quoted in in_payloads:
        return f"its ClientApp cannot read payloads: {ADD_THE_MOD}"
    if "expects exactly one ConfigRecord" in reason:
        return f"flasc_mod must be the first of its mods: {ADD_THE_MOD}"
    return None

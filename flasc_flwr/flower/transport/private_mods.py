"""Mods that bound or hide what one round reveals of a device's data."""

from __future__ import annotations

from logging import WARNING

from flwr.app import ConfigRecord, Message
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable

from flasc_flwr.flower.compat import log, mods_behind, records_of
from flasc_flwr.flower.privacy.local_dp import local_dp

CLIPPING_NORM = "clipping_norm"
"""Entry of a ConfigRecord by which Flower's wrappers ask clients to clip."""


def is_private(message: Message, call_next: ClientAppCallable) -> bool:
    """Return whether an update must not contain anything of earlier rounds.

    It must not if a mod clips it or adds noise to it, or if the server asks for that. A
    residual is added afterwards: it would be beyond the bound, and without noise.

    Parameters
    ----------
    message : Message
        The message.
    call_next : ClientAppCallable
        The next mod, or the app.
    """
    private = clips(message, call_next) or any(
        isinstance(mod, LocalDpMod) or mod is local_dp for mod in mods_behind(call_next)
    )
    if private:
        log(
            WARNING,
            "No error feedback, as updates are clipped or have noise: what this reply "
            "leaves out is lost",
        )
    return private


def clips(message: Message, call_next: ClientAppCallable) -> bool:
    """Return whether a device clips its update, and the server adds the noise.

    What is sent must then be within the norm, too: the noise depends on it.

    Parameters
    ----------
    message : Message
        The message.
    call_next : ClientAppCallable
        The next mod, or the app.
    """
    configs = records_of(message.content, ConfigRecord).values()
    return any(CLIPPING_NORM in config for config in configs) or any(
        mod in _CLIPPING for mod in mods_behind(call_next)
    )


_CLIPPING = (adaptiveclipping_mod, fixedclipping_mod)

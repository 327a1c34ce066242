"""Why a message carries an error."""

from __future__ import annotations

from flwr.app import Message

from flasc_flwr.core.printable import printable

_RAISED = "Exception ClientAppException occurred. Message: "
"""How Flower begins the reason of an app that raised."""

_CLASS, _BETWEEN = "<class '", "'>:<'"
"""What Flower writes before and after the kind of an exception."""

_NOT_SAID = ("", "ValueError", "ClientAppException")
"""Kinds of exceptions that say nothing beside their text."""


def reason_of(message: Message) -> str:
    """Return why a message carries an error, in one printable line.

    Flower's reason is ``<class 'KIND'>:<'TEXT'>``. In simulation the text is a
    traceback; its last line says why.
    """
    kind, text = "", (message.error.reason or "").rstrip()
    if text.startswith(_CLASS) and _BETWEEN in text:
        before, _, inside = text.partition(_BETWEEN)
        kind = before.removeprefix(_CLASS).rpartition(".")[2]
        text = inside.removesuffix("'>").rstrip()
    for line in reversed(text.splitlines()):
        if reason := printable(line.removeprefix(_RAISED)):
            said = reason if kind in _NOT_SAID else f"{kind}: {reason}"
            return printable(said)
    return f"error code {message.error.code}"

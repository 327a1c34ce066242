"""What a round came to: facts from which it shows whether the run can succeed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from flasc_flwr.core.finite import FINITE
from flasc_flwr.flower.compat import ErrorCode

_RAISED = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.LOAD_CLIENT_APP_EXCEPTION)
"""Errors of the ClientApp: not of the network, nor of a device that is away."""

_NOT_FINITE = (FINITE, "must be a finite number")
"""Parts of reasons that say that a client's training became NaN or infinite."""


@dataclass(kw_only=True)
class Outcome:
    """What a round came to.

    Attributes
    ----------
    online : int
        Clients that could have been drawn.
    asked : int
        Clients that were to train.
    updates : int
        Updates that were let in.
    skipped : str
        Why the aggregate or the step was not finite; empty if it was.
    rejected : list[str]
        Why replies were rejected, or are missing.
    unusable : int
        Replies that were rejected though they are not errors.
    raised : dict[int, str]
        What the ClientApp of a node raised, by node.
    evaluated : Mapping[str, Any]
        Metrics of the evaluation at the server; empty if there was none.
    """

    online: int = 0
    asked: int = 0
    updates: int = 0
    skipped: str = ""
    rejected: list[str] = field(default_factory=list)
    unusable: int = 0
    raised: dict[int, str] = field(default_factory=dict)
    evaluated: Mapping[str, Any] = field(default_factory=dict)

    def reject(self, reply: Message, node: int, reason: str) -> None:
        """Note a rejected reply of a node."""
        self.rejected.append(reason)
        self.unusable += not reply.has_error()
        if reply.has_error() and reply.error.code in _RAISED:
            self.raised.setdefault(node, reason)

    @property
    def not_finite(self) -> str:
        """Why the round made no step, if that is NaN or infinity; empty otherwise."""
        if self.skipped:
            return self.skipped
        if self.updates or not self.rejected:
            return ""
        if all(any(part in one for part in _NOT_FINITE) for one in self.rejected):
            return self.rejected[0]
        return ""

    @property
    def common_error(self) -> str:
        """What every client that was to train raised; empty if one did not.

        Numbers may differ, such as those of rows. A single client says little, unless
        there is no other.
        """
        reasons = list(self.raised.values())
        everybody = len(reasons) >= self.asked >= min(2, self.online)
        alike = {re.sub(r"\d+", "0", reason) for reason in reasons}
        if self.updates or not everybody or len(alike) != 1:
            return ""
        return reasons[0]

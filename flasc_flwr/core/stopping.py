"""Stop conditions: when a run ends before its last round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flasc_flwr.core.printable import printable
from flasc_flwr.core.ranges import integer, number
from flasc_flwr.core.settings import check, setting
from flasc_flwr.core.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When to end a run early. A condition that is 0 is off.

    Attributes
    ----------
    accuracy : float
        Accuracy to reach, in [0, 1].
    patience : int
        Evaluations in a row without a new best accuracy.
    megabytes : float
        Message bytes of the run, both ways, in 10^6.
    client_megabytes : float
        Message bytes of a single client, both ways, in 10^6.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    accuracy: float = setting(
        0.0,
        number("[0, 1]"),
        "stop at this accuracy; 0 is off",
        key="stop-accuracy",
        may_change=True,
    )
    patience: int = setting(
        0,
        integer(0),
        "stop after this many evaluations without a new best accuracy; 0 is off",
        key="stop-patience",
        unit="evaluations",
        may_change=True,
    )
    megabytes: float = setting(
        0.0,
        number("[0, inf)"),
        "stop when the messages of all clients, both ways, add up to this; 0 is off",
        key="stop-megabytes",
        unit="MB (10^6 bytes)",
        may_change=True,
    )
    client_megabytes: float = setting(
        0.0,
        number("[0, inf)"),
        "stop when the messages of one client, both ways, add up to this; 0 is off",
        key="stop-client-megabytes",
        unit="MB (10^6 bytes)",
        may_change=True,
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)

    def require_measured(self, metrics: Mapping[str, Any], *, evaluates: bool) -> None:
        """Check that the accuracy is measured, if a condition is about it.

        Parameters
        ----------
        metrics : Mapping[str, Any]
            What the evaluation at the server has measured; empty if there was none.
        evaluates : bool
            Whether the run evaluates at the server at all.

        Raises
        ------
        ValueError
            If it is not: the run would never stop.
        """
        missing = not evaluates or (metrics and "accuracy" not in metrics)
        if missing and (self.accuracy or self.patience):
            found = ", ".join(printable(name, 50) for name in metrics) or "no metrics"
            raise ValueError(
                "stop-accuracy and stop-patience need an evaluate_fn that returns "
                f"'accuracy', got {found}"
            )

    def reason(self, history: Sequence[dict[str, Any]], traffic: Traffic) -> str | None:
        """Return why the run should end now; None if it should continue."""
        measured = [
            row["accuracy"] for row in history if row.get("accuracy") is not None
        ]
        if self.accuracy and measured and measured[-1] >= self.accuracy:
            return f"accuracy {measured[-1]:.4f} reached the target {self.accuracy}"
        if self.patience and len(measured) > self.patience:
            best = max(range(len(measured)), key=lambda i: (measured[i], -i))
            if len(measured) - 1 - best >= self.patience:
                return (
                    f"{self.patience} evaluations without a better accuracy than "
                    f"{measured[best]:.4f}"
                )
        if self.megabytes:
            totals = traffic.totals()
            sent = totals["message_bytes_down"] + totals["message_bytes_up"]
            if sent >= 1e6 * self.megabytes:
                return f"{sent / 1e6:.3f} MB sent, of {self.megabytes} MB"
        if self.client_megabytes:
            client, sent = max(
                traffic.by_client().items(), key=lambda item: item[1], default=("", 0)
            )
            if sent >= 1e6 * self.client_megabytes:
                return (
                    f"client {client} exchanged {sent / 1e6:.3f} MB, of "
                    f"{self.client_megabytes} MB"
                )
        return None

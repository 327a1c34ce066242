"""The summary of a run: its totals, compared with dense float32, and how it ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from flasc_flwr.core.printable import printable
from flasc_flwr.core.traffic import Traffic

FAILED = "failed: "
"""How ``ended`` begins if a run failed."""

SKIPPED_AT_THE_END = "; the last "
"""How ``ended`` continues if the last rounds trained nothing."""


def summarise(
    history: Sequence[dict[str, Any]], traffic: Traffic, size: int, ended: str
) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Parameters
    ----------
    history : Sequence[dict[str, Any]]
        The rows of the history.
    traffic : Traffic
        Every message of the run.
    size : int
        N, the number of entries of the adapter.
    ended : str
        Why the run ended.

    Returns
    -------
    dict[str, Any]
        The last metrics that were measured, the byte totals, and
        ``reduction_vs_dense_float32``: how many times fewer message bytes were sent
        than ``4 * N`` for every adapter sent either way. Headers, names and control
        values are counted for this run, but not for the dense one. ``failures`` counts
        rejected replies by reason.
    """
    metrics: dict[str, Any] = {}
    for row in history:
        for name, value in row.items():
            if value is not None and _LAST.fullmatch(name):
                metrics[name] = value
    totals = traffic.totals()
    sent = totals["message_bytes_down"] + totals["message_bytes_up"]
    dense = traffic.dense_float32_bytes(size)
    return {
        "ended": ended,
        "rounds": max((row["round"] for row in history), default=0),
        "adapter_parameters": size,
        **metrics,
        "skipped_rounds": sum(row["skipped"] for row in history),
        "failures": dict(_reasons(history)),
        **totals,
        "dense_float32_bytes": dense,
        "reduction_vs_dense_float32": dense / sent if sent else None,
        "seconds": round(sum(row["seconds"] for row in history), 3),
    }


def failure(summary: Mapping[str, Any]) -> str | None:
    """Return why a run failed, from its summary; None if it did not fail."""
    ended = str(summary["ended"])
    return ended.removeprefix(FAILED) if ended.startswith(FAILED) else None


def how_it_ended(ended: str, history: Sequence[dict[str, Any]]) -> str:
    """Return why a run ended, and whether its last rounds trained nothing.

    Parameters
    ----------
    ended : str
        Why the run ended.
    history : Sequence[dict[str, Any]]
        The rows of the history.
    """
    last = list(takewhile(lambda row: row["skipped"], reversed(history)))
    if not last:
        return ended
    rounds = f"{len(last)} rounds were" if len(last) > 1 else "round was"
    # Why replies were rejected says more than how many there were.
    reasons = _reasons(last) or Counter(row.get("skip_reason", "") for row in last)
    ((why, _),) = reasons.most_common(1)
    skipped = f"{rounds} skipped: {why or 'too few replies'}"
    return f"{ended}{SKIPPED_AT_THE_END}{skipped}"


def nothing_trained(history: Sequence[dict[str, Any]]) -> str | None:
    """Return why no round of a run updated the model; None if one did.

    Parameters
    ----------
    history : Sequence[dict[str, Any]]
        The rows of the history; there is no training in round 0.

    Returns
    -------
    str or None
        With the most frequent reason why replies were rejected.
    """
    rounds = [row for row in history if row["round"] > 0]
    # An empty Poisson sample is not skipped: its release is noise only.
    if not rounds or any(not row["skipped"] and row["replies"] for row in rounds):
        return None
    reasons = _reasons(history)
    counts = f"{len(rounds)} rounds, {reasons.total()} replies rejected"
    for reason, _ in reasons.most_common(1):
        counts += f", most often: {reason}"
    skips = Counter(row.get("skip_reason", "") for row in rounds if row["skipped"])
    if not reasons and skips.total():
        ((reason, _),) = skips.most_common(1)
        counts += f", skipped most often because: {reason}" if reason else ""
    return f"no round had enough valid replies to update the model ({counts})"


def _reasons(history: Sequence[dict[str, Any]]) -> Counter[str]:
    """Count the rejected replies by reason."""
    return Counter(printable(f["reason"]) for row in history for f in row["failures"])


_LAST = re.compile(
    r"(server_)?(accuracy|loss|perplexity)(_.*)?|exact_match|rouge_l|epsilon|delta"
)
"""Names of the metrics of which a summary has the last value."""

_COUNTS = {
    "payload": "Payloads",
    "message": "Messages",
    "wire": "SuperLink's own count",
}
"""The counts of bytes; the last is there once it was added (`wire_bytes`)."""


SHOWN = (
    *("rounds", "adapter_parameters", "dense_float32_bytes", "seconds"),
    *("payload_bytes_down", "payload_bytes_up"),
    *("message_bytes_down", "message_bytes_up"),
)
"""What a summary must have to be shown as a table."""


def as_table(summary: dict[str, Any]) -> str:
    """Return a summary as a table for the log."""
    reduction = summary.get("reduction_vs_dense_float32")
    rows = [
        ("Ended", summary["ended"]),
        ("Rounds", f"{summary['rounds']}"),
        ("Adapter parameters", f"{summary['adapter_parameters']:,}"),
        ("Test accuracy, as clients receive it", _percent(summary.get("accuracy"))),
        (
            "Test accuracy, server's dense adapter",
            _percent(summary.get("server_accuracy")),
        ),
        *(
            [("Test perplexity", f"{perplexity:.3f}")]
            if (perplexity := summary.get("perplexity"))
            else []
        ),
        *(
            (f"{name} down, up", _both_ways(kind, summary))
            for kind, name in _COUNTS.items()
            if None not in (summary.get(f"{kind}_bytes_{w}") for w in ("down", "up"))
        ),
        (
            "Every parameter in float32, both ways",
            _mb(summary["dense_float32_bytes"]),
        ),
        ("Times less than dense", f"{reduction:.1f} x" if reduction else "-"),
        *(
            [("Epsilon", f"{summary['epsilon']:.4g} at delta {summary['delta']:.3g}")]
            if None not in (summary.get("epsilon"), summary.get("delta"))
            else []
        ),
        ("Seconds", f"{summary['seconds']:.1f}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def as_line(row: dict[str, Any], rounds: int) -> str:
    """Return a row of the history as one line of the log."""
    accuracy = _percent(row["accuracy"])
    epsilon = row.get("epsilon")
    spent = "" if epsilon is None else f"epsilon {epsilon:.4g}  "
    return (
        f"Round {row['round']}/{rounds}  accuracy {accuracy}  "
        f"down {_mb(row['message_bytes_down'])}  "
        f"up {_mb(row['message_bytes_up'])}  "
        f"replies {row['replies']}  failures {len(row['failures'])}  "
        f"{spent}{row['seconds']:.1f} s"
    )


def _mb(count: int) -> str:
    """Return a number of bytes in MB (10^6 bytes)."""
    return f"{count / 1e6:.3f} MB"


def _both_ways(kind: str, summary: dict[str, Any]) -> str:
    """Return the bytes of one count, either way."""
    return ", ".join(_mb(summary[f"{kind}_bytes_{w}"]) for w in ("down", "up"))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"

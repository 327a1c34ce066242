"""Whether a run can still succeed: it fails early, and keeps its last good state."""

from __future__ import annotations

from math import isfinite

from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.state.outcome import Outcome

_PATIENCE = 3
"""Rounds in a row without a finite step: fewer may be one client's doing."""

_LOSSES = ("loss", "server_loss")

_LOWER = (
    "lower server-learning-rate (that of the server optimizer) or "
    "client-learning-rate (that of the clients)"
)


class RunFailedError(RuntimeError):
    """A run that cannot succeed: in which round, why, and what to change."""


class DivergedError(RunFailedError):
    """A run that became NaN or infinite."""


class Health:
    """Looks at each round of a run as it ends.

    Attributes
    ----------
    good : Checkpoint or None
        The state after the last round whose model was good: its loss was finite, or
        nothing is evaluated. Only arrays are shared with the run.

    Parameters
    ----------
    resumed : Checkpoint, optional
        The state that the run resumed from.
    """

    def __init__(self, resumed: Checkpoint | None = None) -> None:
        self.good = resumed.copy() if resumed else None
        rows = resumed.state.history if resumed else []
        self._trained = any(row["replies"] for row in rows)
        self._not_finite = 0

    def look(self, outcome: Outcome, now: Checkpoint, *, evaluates: bool) -> None:
        """Look at a round.

        Parameters
        ----------
        outcome : Outcome
            What it came to.
        now : Checkpoint
            The state after it.
        evaluates : bool
            Whether the run evaluates at the server at all.

        Raises
        ------
        DivergedError
            If the run became NaN or infinite.
        RunFailedError
            If no client can train.
        """
        measured = outcome.evaluated
        wrong = [n for n in _LOSSES if _is_not_finite(measured.get(n))]
        if wrong and self.good:
            raise DivergedError(
                f"the model became NaN or infinite in round {now.round}, {wrong[0]} "
                f"is {measured[wrong[0]]}; the last good state is that after round "
                f"{self.good.round}. Next time, {_LOWER}"
            )
        self._trained = self._trained or outcome.updates > 0
        self._not_finite = self._not_finite + 1 if outcome.not_finite else 0
        if self._not_finite >= _PATIENCE:
            raise DivergedError(
                f"no step was finite in {_PATIENCE} rounds up to round {now.round}, "
                f"the last time because {outcome.not_finite}; the last good state is "
                f"that before them. Next time, {_LOWER}"
            )
        if outcome.common_error and not self._trained:
            raise RunFailedError(
                f"no client can train: all {outcome.asked} clients of round "
                f"{now.round} failed for the same reason: {outcome.common_error}"
                + (f". Next time, {_LOWER}" if outcome.not_finite else "")
            )
        if not wrong and (measured or not evaluates):
            self.good = now.copy()


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not isfinite(value)

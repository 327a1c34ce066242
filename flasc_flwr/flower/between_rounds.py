"""Between a run's rounds: where it starts, what is kept of a round, when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord

from flasc_flwr.core.layout import Role
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.privacy.spending import spending_in
from flasc_flwr.flower.privacy.withheld import reported_row
from flasc_flwr.flower.run import Run
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.state.health import Health, RunFailedError


class BetweenRounds:
    """Takes a run from one round to the next.

    Parameters
    ----------
    server : ServerVector
        Holds the state of the run.
    settings : Callable[[], dict[str, Any]]
        Returns the settings that a resumed run must share.
    stop : Stop
        Conditions for an early end.
    resume : Checkpoint, optional
        The state to resume from.
    on_round : Callable[[dict[str, Any]], None], optional
        Called with each finished row of the history.
    on_checkpoint : Callable[[Checkpoint], None], optional
        Called with the state after each round.

    Attributes
    ----------
    ended : str or None
        Why the run ended early; None if it did not.
    """

    def __init__(
        self,
        *,
        server: ServerVector,
        settings: Callable[[], dict[str, Any]],
        stop: Stop,
        resume: Checkpoint | None,
        on_round: Callable[[dict[str, Any]], None] | None,
        on_checkpoint: Callable[[Checkpoint], None] | None,
    ) -> None:
        self.ended: str | None = None
        self._server = server
        self._settings = settings
        self._stop = stop
        self._resume = resume
        self._on_round = on_round
        self._on_checkpoint = on_checkpoint
        self._health = Health()

    @property
    def good(self) -> Checkpoint | None:
        """The state after the last round whose model was good; None before round 0."""
        return self._health.good

    def begin(
        self, initial_arrays: ArrayRecord, roles: Mapping[str, Role] | None
    ) -> int:
        """Take the arrays to start from, or the state to resume; return the round.

        Raises
        ------
        CheckpointError
            If the run to resume had another adapter or other settings.
        """
        self.ended = None
        self._health = Health(self._resume)
        self._server.begin(initial_arrays, roles)
        if not self._resume:
            return 0
        self._resume.require(self._settings(), self._server.state.layout)
        # The run changes the state: another start() resumes from the one read.
        resumed, self._resume = self._resume, self._resume.copy()
        self._server.resume(resumed.state)
        log(INFO, "Resuming after round %d", resumed.round)
        state = resumed.state
        self.ended = self._stop.reason(state.history, state.traffic)
        return resumed.round + 1

    def close(self, run: Run) -> None:
        """Finish the round's row, and find out whether the run is to end.

        Raises
        ------
        RunFailedError
            If the run cannot succeed. The server has then the last good state.
        ValueError
            If the run is to stop at an accuracy that is not measured.
        """
        state = self._server.state
        if self._reason(run):  # its result is what it leaves, not an earlier state
            run.evaluate_the_last()
        row = run.ledger.row()
        if run.private:
            row = reported_row(row)
        state.history.append(row)
        if self._on_round:
            self._on_round(row)
        evaluated = run.ledger.outcome.evaluated
        self._stop.require_measured(evaluated, evaluates=bool(run.evaluate_fn))
        now = Checkpoint(run.ledger.round, self._settings(), state)
        try:
            self._health.look(run.ledger.outcome, now, evaluates=bool(run.evaluate_fn))
        except RunFailedError:
            if self.good:
                # What was released since then has been spent all the same.
                self.good.state.privacy |= spending_in(state.privacy)
                self._server.resume(self.good.state)
            raise
        if self._on_checkpoint:
            # A copy, which may be kept: the run changes its own state.
            self._on_checkpoint(now.copy())
        self.ended = self._reason(run)

    def _reason(self, run: Run) -> str | None:
        """Return why the run is to end; None if it is not."""
        state = self._server.state
        reason = self._stop.reason(state.history, state.traffic)
        return reason or (run.private.exhausted() if run.private else None)

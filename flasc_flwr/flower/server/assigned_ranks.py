"""Ranks that the server assigns: the best validation losses of the first turn."""

from __future__ import annotations

from logging import INFO

from flasc_flwr.core.aggregation import Contribution
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.ranks import rank_of
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.state.run_state import RunState


class AssignedRanks:
    """Which rank the server gives to which client (Byun & Lee, arXiv 2406.17477).

    Parameters
    ----------
    validation : ValidationRanks, optional
        How ranks are assigned; None where the method assigns none.
    low_rank : int, optional
        Rank of clients that have not been assigned one; None where none are assigned.
    """

    def __init__(
        self, validation: ValidationRanks | None, low_rank: int | None
    ) -> None:
        self.validation = validation
        self.low_rank = low_rank
        self._losses: dict[str, float] = {}

    def of(self, client: Participant, state: RunState) -> int | None:
        """Return the rank that a client was given, None for none.

        It belongs to the node that earned it, not to any that has its name later. A
        resumed run knows only names: the first node of a name has its rank.
        """
        ranks, nodes = state.ranks, state.rank_nodes
        if client.name not in ranks:
            nodes[client.name] = client.node_id
            return self.low_rank
        earned = nodes.setdefault(client.name, client.node_id) == client.node_id
        return ranks[client.name] if earned else self.low_rank

    def open_round(self) -> None:
        """Forget what an earlier round measured without making a step."""
        self._losses = {}

    def measure(self, client: str, update: Contribution, state: RunState) -> None:
        """Measure a client's validation loss."""
        if self.validation:
            trained = update.trained(state.layout, state.vector)
            arrays = state.layout.unflatten(trained)
            self._losses[client] = self.validation.loss_of(arrays)

    def assign(self, state: RunState) -> None:
        """Give the full rank to the clients of the best losses, if any was measured."""
        if self.validation and self._losses:
            best = self.validation.best(self._losses)
            state.ranks |= dict.fromkeys(best, rank_of(state.layout))
            log(INFO, "Assigned full rank to clients %s", ", ".join(best))
            self._losses = {}

"""Strategies that run their rounds themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

_STEPS = (
    "configure_train",
    "aggregate_train",
    "configure_evaluate",
    "aggregate_evaluate",
)


class OwnRounds(Strategy):
    """A Flower strategy whose ``start`` runs the rounds itself.

    Flower's loop holds all replies of a round in memory, cannot resume, and cannot
    stop early. The steps of that loop have no meaning here: to call or override one
    is an error, never without effect.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse subclasses that override a step of Flower's loop.

        Raises
        ------
        TypeError
            If one is overridden; the message names it.
        """
        super().__init_subclass__(**kwargs)
        for step in _STEPS:
            if step in vars(cls):
                raise TypeError(
                    f"{cls.__name__}.{step} would never be called: Flasc runs its "
                    "rounds itself. Use on_round, evaluate_fn or train_config instead"
                )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Refuse: ``start`` runs the rounds."""
        self._refuse("configure_train")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Refuse: ``start`` runs the rounds."""
        self._refuse("aggregate_train")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Refuse: ``start`` runs the rounds."""
        self._refuse("configure_evaluate")

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Refuse: ``start`` runs the rounds."""
        self._refuse("aggregate_evaluate")

    def _refuse(self, step: str) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__}.{step} cannot be called by itself: call start(), "
            "which runs whole rounds. To combine sparse messages with another "
            "strategy, use SparseTransport"
        )

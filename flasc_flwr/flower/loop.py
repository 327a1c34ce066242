"""The loop over the rounds."""

from __future__ import annotations

from collections.abc import Iterator
from logging import INFO
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flasc_flwr.flower.clients.exchange import exchange
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.server.evaluation import EvaluateFn

if TYPE_CHECKING:
    from flasc_flwr.flower.round import Rounds


def run_rounds(
    strategy: Rounds,
    grid: Grid,
    arrays: ArrayRecord,
    *,
    first: int,
    num_rounds: int,
    timeout: float,
    train_config: ConfigRecord,
    evaluate_config: ConfigRecord,
    evaluate_fn: EvaluateFn | None,
) -> Result:
    """Run rounds `first` to `num_rounds`, or until the strategy says why it ends.

    Round 0 is of introductions and a first evaluation. Replies go to the strategy as
    they arrive, never as a list.
    """
    result = Result(arrays=arrays)
    for current in range(first, num_rounds + 1):
        strategy.open_round(current, grid)
        if current > 0:
            with strategy.phase("select"):
                messages = strategy.configure_train(
                    current, result.arrays, train_config, grid
                )
            replies = exchange(grid, messages, timeout, strategy.enough)
            with strategy.phase("aggregate"):
                trained, metrics = strategy.aggregate_train(
                    current, _waited_for(replies, strategy)
                )
            if trained is not None:
                result.arrays = trained
            if metrics is not None:
                result.train_metrics_clientapp[current] = metrics

            with strategy.phase("select"):
                messages = strategy.configure_evaluate(
                    current, result.arrays, evaluate_config, grid
                )
            replies = exchange(grid, messages, timeout)
            with strategy.phase("aggregate"):
                metrics = strategy.aggregate_evaluate(
                    current, _waited_for(replies, strategy)
                )
            if metrics is not None:
                result.evaluate_metrics_clientapp[current] = metrics

        due = current % strategy.evaluate_every == 0 or current == num_rounds
        if evaluate_fn and due:
            with strategy.phase("evaluate"):
                metrics = strategy.evaluate_received(current, evaluate_fn)
            result.evaluate_metrics_serverapp[current] = metrics
        strategy.close_round()
        if strategy.ended:
            log(INFO, "The run ends: %s", strategy.ended)
            break
    return result


def _waited_for(replies: Iterator[Message], strategy: Rounds) -> Iterator[Message]:
    """Yield the replies, and count the time until each as the clients'."""
    while True:
        with strategy.phase("clients"):
            reply = next(replies, None)
        if reply is None:
            return
        yield reply

"""How the data is split, checked before the first round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from logging import INFO, WARNING

from flasc_flwr.app.tasks.task import Task
from flasc_flwr.core.printable import why
from flasc_flwr.flower.compat import log

_OF_PARTITIONS = ("partition", "num-partitions", "classes-per-", "user-column")
"""How errors begin that are about the partitions, and not about missing data."""


def check_partitions(task: Task, counts: Iterable[int | None]) -> None:
    """Find out now what every client would refuse: how the data is split.

    Only if most clients say the same: one of them must not be able to end a run.
    Devices may have data of their own, or the training data may be only there: then
    each of them finds out.

    Parameters
    ----------
    task : Task
        The run's task, with the settings that split its data.
    counts : Iterable[int or None]
        For each client the number of partitions that it says; None: data of its own.

    Raises
    ------
    ValueError
        If the data cannot be split so.
    """
    config, votes = task.config, Counter(counts)
    ((count, most),) = votes.most_common(1)
    if count is None or 2 * most <= votes.total():
        return
    config.require_partitioner()
    if config.user_column and config.partitioner != "natural-id":
        log(
            WARNING,
            "user-column %r is not used with partitioner %r: only 'natural-id' makes a "
            "client of each user",
            config.user_column,
            config.partitioner,
        )
    try:
        task.data.partition(0, count)
    except Exception as error:
        if str(error).startswith(_OF_PARTITIONS):
            raise
        log(INFO, "The partitions are not checked at the server: %s", why(error))

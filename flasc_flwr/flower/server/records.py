"""Records in messages: their keys, and how clients' metrics are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING

from flwr.app import MetricRecord, RecordDict

from flasc_flwr.core.printable import printable, why
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.server.reply_metrics import with_shared_names
from flasc_flwr.flower.wire import BASES, CONTROL, MERGED

OWN_KEYS = (CONTROL, MERGED, BASES)
"""Keys of the records that are sent beside the adapter and the settings."""

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]
"""Averages clients' metrics, weighted by the named metric."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Names and functions that Flower's own strategies also take.

    Attributes
    ----------
    weighted_by_key : str
        Metric that holds a client's number of examples.
    arrayrecord_key, configrecord_key : str
        Keys of the adapter and of the settings in a message.
    train_metrics_aggr_fn, evaluate_metrics_aggr_fn : MetricsAggregation
        Average the clients' metrics.

    Raises
    ------
    ValueError
        If two records of a message would have the same key.
    """

    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: MetricsAggregation
    evaluate_metrics_aggr_fn: MetricsAggregation

    def __post_init__(self) -> None:
        """Check the keys: a record would replace another one of the same key."""
        for name in ("arrayrecord_key", "configrecord_key"):
            if (key := getattr(self, name)) in OWN_KEYS:
                raise ValueError(
                    f"{name} must not be one of {', '.join(OWN_KEYS)}, which are keys "
                    f"of other records, got {key!r}"
                )
        if self.arrayrecord_key == self.configrecord_key:
            raise ValueError(
                "arrayrecord_key and configrecord_key must differ, got "
                f"{printable(self.arrayrecord_key, 50)!r} for both"
            )

    def train_metrics(self, replies: list[RecordDict]) -> MetricRecord | None:
        """Return the averaged metrics of the clients that trained; None without any."""
        return self._averaged("train", self.train_metrics_aggr_fn, replies)

    def evaluate_metrics(self, replies: list[RecordDict]) -> MetricRecord | None:
        """Return those of the clients that evaluated; None without any."""
        return self._averaged("evaluate", self.evaluate_metrics_aggr_fn, replies)

    def _averaged(
        self, kind: str, function: MetricsAggregation, replies: list[RecordDict]
    ) -> MetricRecord | None:
        """Average metrics; a function that fails loses them, and not the run."""
        try:
            averaged = function(with_shared_names(replies), self.weighted_by_key)
            return MetricRecord(dict(averaged))
        except Exception as error:
            log(WARNING, "No metrics: %s_metrics_aggr_fn failed: %s", kind, why(error))
            return None

    def describe(self) -> list[str]:
        """Return the keys as the last lines of a tree."""
        return [
            "└──> Keys in records:",
            f"\t├── Weighted by: '{self.weighted_by_key}'",
            f"\t├── ArrayRecord key: '{self.arrayrecord_key}'",
            f"\t└── ConfigRecord key: '{self.configrecord_key}'",
        ]

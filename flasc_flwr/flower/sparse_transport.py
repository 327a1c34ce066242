"""SparseTransport: any Flower strategy, with sparse messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.ranges import choice
from flasc_flwr.core.sparsity import DENSITY
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.compat import log
from flasc_flwr.flower.flasc import Flasc
from flasc_flwr.flower.transport.dispatch import Sparsity
from flasc_flwr.flower.transport.grid import TransportGrid
from flasc_flwr.flower.transport.round_trip import RoundTrip
from flasc_flwr.flower.transport.streaming import (
    Mean,
    needs_only_the_mean,
    only_base,
    with_mean,
)


class SparseTransport(Strategy):
    """Any Flower strategy, with sparse messages.

    Wraps a strategy and changes nothing but what travels. Clients take part with
    ``ClientApp(mods=[flasc_mod])``: their apps see plain arrays, masked and rounded,
    and what they return is sent back as the largest entries of the difference. The
    inner strategy sees each reply as its own current arrays plus that difference.

    Where the inner strategy needs nothing but the weighted mean of FedAvg, replies are
    reduced one by one, in memory that does not grow with their number.

    Parameters
    ----------
    inner : Strategy
        The strategy: one of Flower's, one of its wrappers around one, or your own.
        SparseTransport is the outermost.
    download_density, upload_density : float
        Fractions of the entries that clients receive and send, in (0, 1].
    values : str
        Value format of both payloads. With ``float32`` a direction of density 1 is
        exact: arrays then travel as Flower sends them, in whatever dtype.
    whole : Sequence[str], optional
        Names, or patterns such as ``*.bias``, of arrays that always travel whole and
        exact. By default those with fewer than two axes. Arrays that are not floating
        point do so in any case.

    Attributes
    ----------
    inner : Strategy
        The strategy.
    traffic : Traffic
        The bytes really sent, by round, direction and node.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        download_density: float = 1 / 4,
        upload_density: float = 1 / 16,
        values: str = "bfloat16",
        whole: Sequence[str] | None = None,
    ) -> None:
        if isinstance(inner, SparseTransport | Flasc):
            raise ValueError(
                f"inner is a {type(inner).__name__}, which sends sparse messages itself"
            )
        if not isinstance(inner, Strategy):
            raise ValueError(
                f"inner is {inner!r}, allowed is a strategy of flwr.serverapp"
            )
        if isinstance(whole, str):
            raise ValueError(f"whole is {whole!r}, allowed is a list of names")
        self.inner = inner
        self.traffic = Traffic()
        self._sparsity = Sparsity(
            download=DENSITY.require("download_density", download_density),
            upload=DENSITY.require("upload_density", upload_density),
            value_format=choice(*VALUE_FORMATS).require("values", values),
            whole=None if whole is None else tuple(whole),
        )
        self._open: RoundTrip | None = None

    def summary(self) -> None:
        """Log the configuration as a tree, the inner strategy's below."""
        sparsity = self._sparsity
        whole = sparsity.whole
        for line in (
            "├──> Sparse transport:",
            f"│\t├── Density: download ({sparsity.download:.4g}) | "
            f"upload ({sparsity.upload:.4g})",
            f"│\t├── Value format: {sparsity.value_format}",
            "│\t├── Travel whole: "
            + ("arrays of fewer than two axes" if whole is None else ", ".join(whole)),
            f"│\t└── Inner strategy: {type(self.inner).__name__}",
        ):
            log(INFO, "\t%s", line)
        self.inner.summary()

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """Run all rounds, as the inner strategy does.

        Takes the arguments of the inner strategy's own ``start``.
        """
        if type(self.inner).start is Strategy.start:
            result = super().start(grid, *args, **kwargs)
        else:
            # Its loop is its own: only the grid is left to put the transport into.
            self.summary()
            result = self.inner.start(TransportGrid(grid, self), *args, **kwargs)
        log(INFO, "SparseTransport: %s", self.traffic.in_words())
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Encode what the inner strategy sends to be trained."""
        messages = self.inner.configure_train(server_round, arrays, config, grid)
        return self._sent(messages, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the inner strategy aggregate the decoded replies."""
        trip = self._trip()
        inner = self.inner
        opened = [trip.open(reply) for reply in replies]
        base = only_base(opened)
        if base and isinstance(inner, FedAvg) and needs_only_the_mean(inner):
            mean = Mean(base, inner.weighted_by_key)
            stand_ins = [mean.take(*reply) for reply in trip.decoded(opened)]
            result = with_mean(inner, mean).aggregate_train(server_round, stand_ins)
        else:
            result = inner.aggregate_train(server_round, trip.restored(opened))
        trip.report()
        return result

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Encode what the inner strategy sends to be evaluated."""
        messages = self.inner.configure_evaluate(server_round, arrays, config, grid)
        return self._sent(messages, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' metrics."""
        trip = self._trip()
        opened = [trip.open(reply) for reply in replies]
        result = self.inner.aggregate_evaluate(server_round, trip.restored(opened))
        trip.report()
        return result

    def round_trip(self, messages: Iterable[Message], server_round: int) -> RoundTrip:
        """Return an exchange of messages that the inner strategy made."""
        return RoundTrip(
            messages, self._sparsity, server_round=server_round, traffic=self.traffic
        )

    def _sent(self, messages: Iterable[Message], server_round: int) -> list[Message]:
        self._open = self.round_trip(messages, server_round)
        return self._open.messages

    def _trip(self) -> RoundTrip:
        if self._open is None:
            raise RuntimeError("nothing was sent: configure comes before aggregate")
        return self._open

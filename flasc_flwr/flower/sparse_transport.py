"""SparseTransport: a wrapper that gives any Flower strategy sparse messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from flasc_flwr.core.methods.budget import AUTO
from flasc_flwr.core.traffic import Traffic
from flasc_flwr.flower.compat import log, skip_unreadable_replies
from flasc_flwr.flower.flasc import Flasc
from flasc_flwr.flower.transport.alike import Reader, Structure
from flasc_flwr.flower.transport.choosing import (
    chosen_settings,
    notices,
    settings_tree,
)
from flasc_flwr.flower.transport.encoding_grid import EncodingGrid
from flasc_flwr.flower.transport.evidence import Replies
from flasc_flwr.flower.transport.fates import Fates
from flasc_flwr.flower.transport.incoming_reply import IncomingReply
from flasc_flwr.flower.transport.round_trip import RoundTrip
from flasc_flwr.flower.transport.run_memory import RunMemory
from flasc_flwr.flower.transport.streaming_mean import (
    StreamingMean,
    common_sent_record,
    needs_only_the_mean,
    with_mean,
)
from flasc_flwr.flower.transport.transparent import Transparent
from flasc_flwr.flower.transport.wrappable import require_strategy


class SparseTransport(Transparent):
    """Wrap a Flower strategy so that it sends and receives sparse messages.

    Only the messages change. Clients need ``ClientApp(mods=[flasc_mod])``: the app
    trains on dense arrays, and the largest entries of trained minus received are sent
    back. The inner strategy sees each reply as its own current arrays plus that
    difference. Both sides remember what a message leaves out, and send it later: the
    first download has every entry, and later ones are differences.

    The wrapper's own names are `inner`, `traffic`, `encoding_grid`, the methods of a
    Flower Strategy, and private names. All other attributes and methods are those of
    `inner`: they can be read, called and set through the wrapper.

    If the inner strategy needs only the weighted mean of FedAvg, replies are averaged
    one by one, in memory that does not grow with their number.

    Parameters
    ----------
    inner : Strategy
        The strategy to wrap: one of Flower's, your own, or one of Flower's wrappers
        around these. SparseTransport must be the outermost wrapper.
    download_density : float or str (default: "auto")
        Largest fraction of the entries that clients receive, in (0, 1], or text such as
        ``"1/4"``. With error feedback both ways, the first download has every entry,
        and the fraction is of each later difference. ``"auto"`` is 1/2 for differences
        without `download_bytes`, and otherwise 1.
    upload_density : float or str (default: "auto")
        Largest fraction of the entries that clients send, in (0, 1], or text such as
        ``"1/16"``. ``"auto"`` is 1/2, but 1 with `upload_bytes`, and for strategies
        that compare replies (median, trimmed mean, Krum, Bulyan).
    download_bytes, upload_bytes : int (default: 0)
        Most bytes of a payload each way; 0 is no limit. Of the entries that the density
        allows, the largest that fit are sent. Arrays that travel whole do not count.
    values : str (default: "auto")
        Value format of payloads: ``float32``, ``bfloat16``, ``float16``, ``int8``,
        ``int4`` or ``step``. ``"auto"`` is ``int4``, or ``int8`` without error
        feedback. Downloads with every entry are in ``bfloat16`` instead of a coarser
        format. With ``float32`` and density 1, arrays travel unencoded in that
        direction, in their own dtypes, and nothing is lost.
    whole : Sequence[str] (default: ())
        Names, or shell patterns such as ``head.*``, of more arrays that travel whole.
        These always do: arrays that are not floating point, not finite, of whole
        numbers above 256, of fewer than two axes, a layer's statistics by name, or of a
        record with fewer than 1,024 other entries. A name or pattern that fits no array
        is refused in the first round.
    sparse : Sequence[str] (default: ())
        Names or patterns of floating-point arrays that do not travel whole, though they
        have fewer than two axes or whole numbers, are statistics, or are of a record
        with few entries.
    error_feedback : str (default: "auto")
        What is remembered of what messages leave out. ``"both"``: a download is the
        difference to what the device holds, and a device adds what it has not sent to
        its next update. ``"up"``: only devices remember; downloads have every entry,
        rounded. ``"none"``: what an upload leaves out is lost. Downloads have every
        entry, or with a `download_density` below 1 they are masked: entries that are
        not sent are zero on the device (FLASC). ``"auto"`` is ``"both"``, or ``"none"``
        if `inner` adds noise (differential privacy).
    feedback_decay : float (default: 1)
        Factor on what a device has not sent, for each round since.
    quota : str (default: "tensor")
        Where entries compete to be sent: ``"tensor"``, within each array; ``"none"``,
        over all arrays of a record.
    replies : str or Mapping[str, str] (default: "auto")
        What replies hold. ``"weights"``: the received arrays after training.
        ``"updates"``: what is to be added to them (deltas, gradients). ``"auto"``:
        arrays that are close to those received count as trained ones, and all others
        travel as they are. One word for all, or one by key or shell pattern of the
        ArrayRecords that are sent; one that fits none is refused in the first round.

    Attributes
    ----------
    inner : Strategy
        The wrapped strategy.
    traffic : Traffic
        Bytes sent since `start`, by round, direction and node. In ``aggregate_train``
        of the inner strategy, ``traffic.totals(server_round)`` has all messages so far.

    Raises
    ------
    ValueError
        If an argument is out of range, or `inner` is not a strategy of Flower's Message
        API or sends sparse messages itself.
    TypeError
        If an argument beside `inner` has no name.

    Notes
    -----
    Top-k of the download and of the update as in FLASC (Kuo et al., 2024, Algorithm 1),
    https://arxiv.org/abs/2406.05233; error feedback: ``docs/error-feedback.md``. Wraps
    a strategy as Flower's ``DifferentialPrivacyServerSideFixedClipping`` does.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAdam
    >>> strategy = SparseTransport(FedAdam(), upload_density="1/16")
    """

    def __init__(
        self,
        inner: Strategy,
        *unnamed: object,
        download_density: float | str = AUTO,
        upload_density: float | str = AUTO,
        download_bytes: int = 0,
        upload_bytes: int = 0,
        values: str = AUTO,
        whole: Sequence[str] = (),
        sparse: Sequence[str] = (),
        error_feedback: str = AUTO,
        feedback_decay: float = 1.0,
        quota: str = "tensor",
        replies: Replies = AUTO,
    ) -> None:
        require_strategy(inner, (SparseTransport, Flasc))
        if unnamed:
            raise TypeError(
                "SparseTransport takes one argument without a name, the strategy; "
                f"name the others, as in upload_density={unnamed[0]!r}"
            )
        self.traffic = Traffic()
        self._settings = chosen_settings(
            inner,
            error_feedback=error_feedback,
            download_density=download_density,
            upload_density=upload_density,
            download_bytes=download_bytes,
            upload_bytes=upload_bytes,
            values=values,
            whole=whole,
            sparse=sparse,
            quota=quota,
            replies=replies,
            feedback_decay=feedback_decay,
        )
        self._fates = Fates(self._settings)
        self._open_trip: RoundTrip | None = None
        self._link: EncodingGrid | None = None
        self._usual: dict[bool, Structure | None] = {}
        self._memory = RunMemory(self._settings)
        self.inner = inner

    def summary(self) -> None:
        """Log the configuration as a tree, followed by the inner strategy's."""
        self._log_settings()
        self.inner.summary()

    def _log_settings(self) -> None:
        for line in settings_tree(self.inner, self._settings):
            log(INFO, "\t%s", line)

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """Run all rounds, with the arguments of the inner strategy's ``start``."""
        own_loop = getattr(self.inner.start, "__func__", None) is not Strategy.start
        self._memory = RunMemory(self._settings)
        self._fates = Fates(self._settings)
        self._link = None
        self._usual = {}
        self.traffic.rounds.clear()  # the inner strategy may hold the same object
        for line in notices(self.inner, self._settings):
            log(WARNING, "%s", line)
        with skip_unreadable_replies():
            if own_loop:
                # Only its grid can be replaced. It logs its own summary.
                self._log_settings()
                result = self.inner.start(self.encoding_grid(grid), *args, **kwargs)
            else:
                result = super().start(grid, *args, **kwargs)
        log(INFO, "SparseTransport: %s", self.traffic.in_words())
        return result

    def encoding_grid(self, grid: Grid) -> Grid:
        """Return a grid that encodes what is sent through `grid`.

        The same one each time: a strategy may send in one call, and pull the replies in
        another one.
        """
        if isinstance(grid, EncodingGrid):
            return grid
        if self._link is None or not self._link.is_around(grid):
            make_round_trip = partial(self._make_round_trip, whole_round=False)
            self._link = EncodingGrid(grid, make_round_trip)
        return self._link

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Encode what the inner strategy sends for training."""
        messages = self.inner.configure_train(server_round, arrays, config, grid)
        return self._begin(messages, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the inner strategy aggregate the decoded replies.

        Raises
        ------
        RuntimeError
            If nothing was sent, or a reply answers no message of this round.
        """
        trip, inner = self._current_trip(), self.inner
        inspected = self._inspected(replies, trains=True)
        sent = common_sent_record(inspected)
        if sent and isinstance(inner, FedAvg) and needs_only_the_mean(inner):
            mean = StreamingMean(sent, inner.weighted_by_key)
            emptied = [mean.add(*decoded) for decoded in trip.decode(inspected)]
            result = with_mean(inner, mean).aggregate_train(server_round, emptied)
        else:
            result = inner.aggregate_train(server_round, trip.restore(inspected))
        trip.taken()
        trip.report()
        return result

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Encode what the inner strategy sends for evaluation."""
        messages = self.inner.configure_evaluate(server_round, arrays, config, grid)
        return self._begin(messages, server_round)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' metrics.

        Raises
        ------
        RuntimeError
            If nothing was sent, or a reply answers no message of this round.
        """
        trip = self._current_trip()
        messages = trip.restore(self._inspected(replies, trains=False))
        result = self.inner.aggregate_evaluate(server_round, messages)
        trip.report()
        return result

    def _make_round_trip(
        self, messages: Iterable[Message], server_round: int, *, whole_round: bool
    ) -> RoundTrip:
        """Encode messages: all of a round, or some of a strategy's own loop."""
        messages = list(messages)
        self._fates.log(messages)
        return RoundTrip(
            messages,
            self._settings,
            server_round=server_round,
            traffic=self.traffic,
            memory=self._memory,
            whole_round=whole_round,
        )

    def _begin(self, messages: Iterable[Message], server_round: int) -> list[Message]:
        """Encode all messages of a round; replies to earlier ones are not taken."""
        if self._open_trip is not None:
            self._open_trip.close()
        trip = self._make_round_trip(messages, server_round, whole_round=True)
        self._open_trip = trip
        return trip.messages

    def _inspected(
        self, replies: Iterable[Message], *, trains: bool
    ) -> list[IncomingReply]:
        """Return the replies; odd ones have an error if only Flower reads them."""
        inspected = self._current_trip().inspect(replies)
        reader = Reader.of(self.inner, trains=trains)
        if reader is None:
            return inspected
        before = self._usual.get(trains)
        alike, self._usual[trains] = reader.without_odd_ones(inspected, before)
        return alike

    def _current_trip(self) -> RoundTrip:
        if self._open_trip is None:
            raise RuntimeError("nothing was sent: configure comes before aggregate")
        return self._open_trip

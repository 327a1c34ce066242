"""The outbox: each client's budget of this turn, and its message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Message, RecordDict

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.served import MOST_SERVED, served
from flasc_flwr.flower.bases.device_bases import VERSION
from flasc_flwr.flower.clients.exchange import lifetime
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.server.downloads import Download
from flasc_flwr.flower.server.records import Records
from flasc_flwr.flower.server.reminding import personal
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.wire import BASES, CONTROL, MERGED


def with_budgets(
    drawn: Iterable[Participant],
    server: ServerVector,
    most: int | None = MOST_SERVED,
) -> list[Participant]:
    """Return the clients, each with its budget of this turn.

    Only so many distinct ones are served: each is encoded once and kept until the
    round is over, and a node chooses its own.

    Parameters
    ----------
    drawn : Iterable[Participant]
        The clients, with their own budgets.
    server : ServerVector
        Knows what they use in this turn.
    most : int, optional
        How many distinct budgets are served; None: all of them.
    """
    drawn = list(drawn)
    own = [server.budget_of(one) for one in drawn]
    plain = [
        # Ranks above the adapter's are equal to it; an adapter may have none.
        replace(
            budget,
            prescribed=frozenset(),
            segment=None,
            rank=server.core_rank(budget) or None,
        )
        for budget in own
    ]
    instead = served(plain, most)
    # What the method prescribes is declared to each device by its own settings.
    # Segments share a download.
    return [
        replace(
            one,
            budget=replace(
                instead[key], prescribed=budget.prescribed, segment=budget.segment
            ),
        )
        for one, budget, key in zip(drawn, own, plain, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """Makes the messages of one exchange.

    Attributes
    ----------
    server : ServerVector
        What is sent.
    records : Records
        Keys in the messages.
    config : ConfigRecord
        Sent to the clients; ``server-round`` is added.
    message_type : str
        ``train`` or ``evaluate``.
    round : int
        The server round.
    timeout : float
        Seconds that replies are waited for.
    """

    server: ServerVector
    records: Records
    config: ConfigRecord
    message_type: str
    round: int
    timeout: float

    def messages(
        self,
        cohort: list[Participant],
        downloads: Mapping[Budget, Download],
        instructions: Mapping[Budget, Instructions],
    ) -> list[Message]:
        """Return one message for each client, one content for each budget.

        Clients with the same budget share a content, which is serialized once. If there
        are bases, those that lack them share another one.
        """
        settings = ConfigRecord({**self.config, "server-round": self.round})
        merged = self.server.downloads.merged_record
        key = self.records.arrayrecord_key
        bases = self.server.bases
        contents: dict[Budget, RecordDict] = {}
        with_bases: dict[Budget, RecordDict] = {}
        for budget, download in downloads.items():
            download.keep()
            content = RecordDict(
                {
                    key: download.record,
                    self.records.configrecord_key: settings,
                }
            )
            if merged:
                content[MERGED] = merged
            control = instructions[budget].to_record()
            if bases:
                encoded = bases.at(self.server.core_rank(budget))
                control[VERSION] = encoded.version
            if control:
                content[CONTROL] = control
            contents[budget] = content
            if bases:
                with_bases[budget] = RecordDict({**content, BASES: encoded.record})

        def content_of(one: Participant) -> RecordDict:
            rank = self.server.core_rank(one.budget)
            lacks = bases is not None and not bases.holds(one.name, rank)
            return (with_bases if lacks else contents)[one.budget]

        return [
            Message(
                personal(self.server, one, content_of(one), key, self.round),
                one.node_id,
                self.message_type,
                ttl=lifetime(self.timeout),
                group_id=str(self.round),
            )
            for one in cohort
        ]

"""The messages of one exchange: one content for each budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.server.downloads import Download
from flasc_flwr.flower.server.records import Records
from flasc_flwr.flower.wire import CONTROL, MERGED, Instructions


def make_messages(
    cohort: Iterable[Participant],
    downloads: Mapping[Budget, Download],
    merged: ArrayRecord | None,
    message_type: str,
    *,
    server_round: int,
    instructions_for: Callable[[Budget], Instructions],
    config: ConfigRecord,
    records: Records,
) -> list[Message]:
    """Return one message for each client of a cohort.

    Clients with the same budget share one content, which is serialized once.

    Parameters
    ----------
    cohort : Iterable[Participant]
        The clients, with this turn's budgets.
    downloads : Mapping[Budget, Download]
        What each budget receives.
    merged : ArrayRecord, optional
        What every client merges into its backbone.
    message_type : str
        ``train`` or ``evaluate``.
    server_round : int
        The round.
    instructions_for : Callable[[Budget], Instructions]
        What a client with a budget is to do.
    config : ConfigRecord
        Settings for the clients; ``server-round`` is added.
    records : Records
        Keys of the records.
    """
    settings = ConfigRecord({**config, "server-round": server_round})
    contents: dict[Budget, RecordDict] = {}
    messages = []
    for client in cohort:
        budget = client.budget
        if budget not in contents:
            content = RecordDict(
                {
                    records.arrayrecord_key: downloads[budget].record,
                    records.configrecord_key: settings,
                }
            )
            if merged:
                content[MERGED] = merged
            if control := instructions_for(budget).to_record():
                content[CONTROL] = control
            contents[budget] = content
        messages.append(
            Message(
                contents[budget],
                client.node_id,
                message_type,
                group_id=str(server_round),
            )
        )
    return messages

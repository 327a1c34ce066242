"""Error feedback with one device: what messages say about its memory, both ways."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.envelope import sealed
from flasc_flwr.flower.feedback.reminder import Reminder
from flasc_flwr.flower.server.followed import FollowedDownload
from flasc_flwr.flower.server.server_vector import ServerVector
from flasc_flwr.flower.wire import CONTROL


def personal(
    server: ServerVector, client: Participant, content: RecordDict, key: str, round: int
) -> RecordDict:
    """Return a client's own content, made from its budget's.

    With error feedback: its way to the reference, and its receipt, in an envelope, as
    payloads are short. Otherwise the same content.

    Parameters
    ----------
    server : ServerVector
        What is sent, and what the server remembers of its devices.
    client : Participant
        The client, with its budget of this turn.
    content : RecordDict
        What all clients with its budget are sent.
    key : str
        Key of the ArrayRecord with the download.
    round : int
        The server round.
    """
    if not server.remembers:
        return content
    fleet = server.state.fleet
    taken = fleet.receipts.last.get(client.name)
    reminder = Reminder(
        round=round,
        taken=taken,
        fading=server.fading,
        run=fleet.run_for(client.name),
    )
    download, held = server.encode(client.budget), fleet.held.get(client.name)
    own = RecordDict(dict(content.items()))
    if isinstance(download, FollowedDownload):
        way, own[key] = download.way(held)
        reminder = reminder.along(way)
    controls = records_of(content, ConfigRecord)
    control: dict[str, Any] = dict(controls.get(CONTROL, {}))
    reminder.add_to(control)
    own[CONTROL] = ConfigRecord(control)
    return sealed(own)


def heard(server: ServerVector, client: Participant, reply: Message) -> None:
    """Note what a reply, which is not an error, says about its client's memory.

    Raises
    ------
    OtherReferenceError
        If the client could not use its message.
    LacksBasesError
        If it lacks the bases of its cores.
    """
    if server.bases:
        server.bases.heard(client.name, reply, server.core_rank(client.budget))
    if server.remembers:
        download = server.encode(client.budget)
        newest = None
        if isinstance(download, FollowedDownload):
            newest = download.stream.reference
        server.state.fleet.heard(client.name, reply, newest)

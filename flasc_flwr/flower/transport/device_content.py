"""What one device is sent: the same as all, and what depends on its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.transport.encoded_content import EncodedContent
from flasc_flwr.flower.transport.run_memory import RunMemory
from flasc_flwr.flower.transport.sent_record import Following
from flasc_flwr.flower.wire import CONTROL


def device_content(
    made: EncodedContent, memory: RunMemory, node: int, *, remembers: bool
) -> tuple[RecordDict, Mapping[str, Following]]:
    """Return what a device is sent, and the records for which it has to remember.

    Parameters
    ----------
    made : EncodedContent
        What all devices with this content are sent.
    memory : RunMemory
        What is remembered of the devices.
    node : int
        Id of the device.
    remembers : bool
        Whether the device can use its memory for this message. If not, it is sent whole
        references, and no reminders.

    Returns
    -------
    RecordDict and Mapping[str, Following]
        The content; and by key the records that travel as the way to a reference.
    """
    followed = made.followed
    if not remembers:
        alone = {key: following.alone for key, following in followed.items()}
        return _own(made.encoded, alone, {}), {}
    control: dict[str, Any] = {}
    ways = {}
    asked = made.sent if made.expects_parcels else {}
    for key, reminder in memory.reminders(node, followed, asked).items():
        if key in followed:
            reminder, ways[key] = followed[key].way(reminder, memory.held(node, key))
        reminder.add_to(control, key)
    return _own(made.encoded, ways, control), followed


def _own(
    encoded: RecordDict, parcels: Mapping[str, ArrayRecord], control: dict[str, Any]
) -> RecordDict:
    """Return a content with a device's parcels, and with entries of its reminders."""
    own = RecordDict(dict(encoded))
    for key, parcel in parcels.items():
        own[key] = parcel
    if control:
        shared: Mapping[str, Any] = records_of(own, ConfigRecord).get(CONTROL, {})
        own[CONTROL] = ConfigRecord(dict(shared) | control)
    return own

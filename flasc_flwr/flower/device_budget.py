"""A device's name and its own budget: read from its settings, sent when it is asked."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict

from flasc_flwr.core.settings import settings_of
from flasc_flwr.flower.bases.device_bases import HELD as BASES_HELD
from flasc_flwr.flower.bases.device_bases import held_bases
from flasc_flwr.flower.device_limits import DeviceLimits
from flasc_flwr.flower.feedback.device_session import RESIDUAL_VALUES
from flasc_flwr.flower.feedback.kept_memory import MEMORY_FOLDER, held_version
from flasc_flwr.flower.feedback.reminder import HELD
from flasc_flwr.flower.wire import CONTROL

OWN_SETTINGS = (
    "download-density",
    "upload-density",
    "download-bytes",
    "upload-bytes",
    "upload-seconds",
    "upload-mbits",
    "lora-rank",
    "tier",
)
"""Keys of a ``--node-config`` that set the device's own budget."""


def device_keys() -> frozenset[str]:
    """Return the keys of a ``--node-config`` that `flasc_mod` reads."""
    limits = (declared.key for declared in settings_of(DeviceLimits).values())
    return frozenset([*OWN_SETTINGS, RESIDUAL_VALUES, MEMORY_FOLDER, *limits])


def introduce(message: Message, context: Context) -> Message:
    """Reply with this node's name and budget."""
    settings = context.node_config
    answer = ConfigRecord({k: settings[k] for k in OWN_SETTINGS if k in settings})
    # Node ids are random in every simulation; the partition makes a simulated client
    # the same client in the next run.
    if "partition-id" in settings:
        answer["name"] = str(settings["partition-id"])
    if version := held_version(context):
        answer[HELD] = version
    if version := held_bases(context):
        answer[BASES_HELD] = version
    return Message(RecordDict({CONTROL: answer}), reply_to=message)

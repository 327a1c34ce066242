"""What a strategy sends to clients, with its arrays encoded as parcels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ArrayRecord, MessageType, RecordDict

from flasc_flwr.core.codec import require_sendable
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.least import require_bytes
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.transport.download_parcel import pack_download
from flasc_flwr.flower.transport.evidence import AUTO, word_of
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.rule import NOT_FINITE, why_whole
from flasc_flwr.flower.transport.sent_record import Following, SentRecord
from flasc_flwr.flower.transport.transport_settings import TransportSettings
from flasc_flwr.flower.transport.trip_traffic import data_bytes
from flasc_flwr.flower.wire import CONTROL, category

Follow = Callable[[str, Form, ArrayRecord], Following | None]
"""Returns the way to a reference that a record of this key travels as, or None."""


@dataclass(frozen=True, eq=False)
class EncodedContent:
    """The content of one or more messages, with its arrays encoded.

    Attributes
    ----------
    encoded : RecordDict
        What the devices are sent. The records in `followed` are still dense:
        :func:`~.device_content.device_content` replaces them for each device.
    plain_bytes : int
        Bytes of its arrays as Flower's plain arrays.
    sent : dict[str, SentRecord]
        By key, the records that are encoded, or whose updates are expected as parcels.
    expects_parcels : bool
        Whether replies must hold parcels.
    trains : bool
        Whether the message asks for training.
    whole : dict[str, ArrayRecord]
        The records to be trained of which every array travels whole.
    """

    encoded: RecordDict
    plain_bytes: int
    sent: dict[str, SentRecord]
    expects_parcels: bool
    trains: bool
    whole: dict[str, ArrayRecord]

    @property
    def trained(self) -> dict[str, SentRecord]:
        """The records that a reply may update: none if nothing is to be trained."""
        return self.sent if self.trains else {}

    @property
    def followed(self) -> dict[str, Following]:
        """The records that travel as the way to a reference."""
        return {k: s.following for k, s in self.sent.items() if s.following is not None}

    @property
    def in_payloads(self) -> set[str]:
        """Names of the arrays that clients cannot read without flasc_mod."""
        return {
            tensor.name
            for record in self.sent.values()
            if record.is_encoded
            for tensor in record.form.layout.tensors
        }


def encode_content(
    content: RecordDict,
    message_type: str,
    settings: TransportSettings,
    follow: Follow | None = None,
) -> EncodedContent:
    """Encode the arrays of a message that asks for training or evaluation.

    Parameters
    ----------
    content : RecordDict
        The content.
    message_type : str
        The type of the message.
    settings : TransportSettings
        How arrays are sent.
    follow : Callable, optional
        Decides which records travel as the way to a reference (default: none).

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, the bytes are too few for any payload, there
        are too many arrays, or a record has the key of the instructions.
    """
    if CONTROL in content:
        raise ValueError(
            f"the key of a record must not be {CONTROL!r}, the key of the instructions "
            "to flasc_mod"
        )
    asked = category(message_type)
    arrays = records_of(content, ArrayRecord)
    sent: dict[str, SentRecord] = {}
    if asked in (MessageType.TRAIN, MessageType.EVALUATE):
        for key, dense in arrays.items():
            if encoding := _encode_record(key, dense, settings, follow):
                sent[key] = encoding
    require_sendable(record.form.layout for record in sent.values())
    encoded = RecordDict(dict(content))
    for key, record in sent.items():
        if record.parcel is not None:
            encoded[key] = record.parcel
    trains = asked == MessageType.TRAIN
    expects_parcels = trains and bool(sent) and not settings.lossless_upload
    if expects_parcels:
        encoded[CONTROL] = _instructions(sent, settings).to_record()
    return EncodedContent(
        encoded,
        plain_bytes=sum(map(data_bytes, arrays.values())),
        sent=sent,
        expects_parcels=expects_parcels,
        trains=trains,
        whole={k: r for k, r in arrays.items() if trains and k not in sent},
    )


def _encode_record(
    key: str, record: ArrayRecord, settings: TransportSettings, follow: Follow | None
) -> SentRecord | None:
    """Return how a record is sent; None if all its arrays travel whole."""
    why = why_whole(record, settings.whole, settings.sparse)
    sparse = [index for index, reason in enumerate(why.values()) if not reason]
    if not sparse:
        return None
    form = Form.of(record, sparse)
    sent = SentRecord(
        record,
        form,
        word=word_of(settings.replies, key),
        not_finite=tuple(n for n, reason in why.items() if reason == NOT_FINITE),
    )
    budget = Budget(
        download_bytes=settings.download_bytes, upload_bytes=settings.upload_bytes
    )
    require_bytes(budget, form.layout, settings.value_format)
    if settings.lossless_download:
        return sent
    if follow and (following := follow(key, form, record)):
        return replace(sent, following=following)
    parcel = pack_download(
        form,
        record,
        settings.download_density if settings.masks_weights else 1.0,
        settings.value_format if settings.masks_weights else settings.grid,
        most_bytes=settings.download_bytes if settings.masks_weights else 0,
        quota=settings.quota,
    )
    return replace(sent, parcel=parcel)


def _instructions(
    sent: dict[str, SentRecord], settings: TransportSettings
) -> Instructions:
    """Return what clients are asked to send."""
    words: dict[str, Any] = {
        key: record.word for key, record in sent.items() if record.word != AUTO
    }
    return Instructions(
        density=settings.upload_density,
        upload_bytes=settings.upload_bytes,
        value_format=settings.value_format,
        sparse={key: record.form.sparse for key, record in sent.items()},
        replies=words,
        quota=settings.quota,
    )

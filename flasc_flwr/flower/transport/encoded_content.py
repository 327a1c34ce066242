"""The content of a message to clients, with its arrays encoded as parcels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict

from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.least import require_bytes
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.transport.evidence import AUTO, Replies, word_of
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import pack_download
from flasc_flwr.flower.transport.rule import NOT_FINITE, why_whole
from flasc_flwr.flower.transport.sent_record import Following, SentRecord
from flasc_flwr.flower.wire import CONTROL, Instructions, category


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """How a SparseTransport sends arrays.

    Attributes
    ----------
    download_density, upload_density : float
        Largest fractions of the entries that are sent each way, in (0, 1]; of a
        download that travels as differences, of the difference.
    download_bytes, upload_bytes : int
        Most bytes of a payload each way; 0 is no limit.
    value_format : str
        Value format of both payloads.
    whole, sparse : tuple[str, ...]
        Names or patterns of arrays beside the rule of
        :func:`~flasc_flwr.flower.transport.rule.why_whole`.
    error_feedback : str
        What is remembered: ``none``, ``up`` (at the devices) or ``both``.
    fading : Fading
        How residuals fade.
    quota : str
        Where entries compete: one of :data:`~flasc_flwr.core.methods.scores.QUOTAS`.
    replies : str or Mapping[str, str]
        What replies hold, by key of their ArrayRecords.
    """

    download_density: float
    upload_density: float
    download_bytes: int
    upload_bytes: int
    value_format: str
    whole: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    error_feedback: str = "none"
    fading: Fading = field(default_factory=Fading)
    quota: str = "tensor"
    replies: Replies = AUTO

    @property
    def lossless_download(self) -> bool:
        """Whether nothing is lost on the way down: arrays then travel unencoded."""
        return self._is_lossless(self.download_density, self.download_bytes)

    @property
    def lossless_upload(self) -> bool:
        """Whether nothing is lost on the way up: arrays then travel unencoded."""
        return self._is_lossless(self.upload_density, self.upload_bytes)

    @property
    def how(self) -> str:
        """How arrays in payloads travel, in one word; empty if nothing is lost."""
        if self.lossless_download and self.lossless_upload:
            return ""
        bounds = self.download_bytes, self.upload_bytes
        densities = self.download_density, self.upload_density
        return "sparse" if any(bounds) or min(densities) < 1 else "rounded"

    @property
    def follows(self) -> bool:
        """Whether downloads are differences to a reference."""
        return self.error_feedback == "both" and not self.lossless_download

    @property
    def remembers_uploads(self) -> bool:
        """Whether devices keep what their replies leave out."""
        return self.error_feedback != "none" and not self.lossless_upload

    @property
    def masks_weights(self) -> bool:
        """Whether devices train from weights of which some arrive as zero."""
        return self.error_feedback == "none" and bool(
            self.download_density < 1 or self.download_bytes
        )

    @property
    def grid(self) -> str:
        """Value format in which whole arrays travel that are not masked."""
        return "float32" if self.value_format == "float32" else "bfloat16"

    def _is_lossless(self, density: float, most_bytes: int) -> bool:
        return density == 1 and not most_bytes and self.value_format == "float32"


Follow = Callable[[str, Form, ArrayRecord], Following | None]
"""Returns how a record of a key travels as the way to a reference; None if it does not.
"""


@dataclass(frozen=True, eq=False)
class EncodedContent:
    """The content of one or more messages, as the strategy made it and as it travels.

    Attributes
    ----------
    original : RecordDict
        The content that the inner strategy made.
    encoded : RecordDict
        What is sent to all of its devices, but for their ways to a reference.
    sent : dict[str, SentRecord]
        The records that travelled otherwise, or whose updates are expected, by key.
    expects_parcels : bool
        Whether replies are to hold parcels.
    trains : bool
        Whether the message asks for training.
    whole : dict[str, ArrayRecord]
        The records that are to be trained and of which every array travels whole.
    """

    original: RecordDict
    encoded: RecordDict
    sent: dict[str, SentRecord]
    expects_parcels: bool
    trains: bool = False
    whole: dict[str, ArrayRecord] = field(default_factory=dict)

    @property
    def trained(self) -> dict[str, SentRecord]:
        """The records that replies may be updates of; none if it asks for no training.

        Arrays in other replies are not trained ones.
        """
        return self.sent if self.trains else {}

    @property
    def followed(self) -> dict[str, Following]:
        """The records that travelled as the way to a reference."""
        return {k: s.following for k, s in self.sent.items() if s.following is not None}


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
        Which records travel as the way to a reference.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, or the bytes are too few for any payload.
    """
    asked = category(message_type)
    arrays = records_of(content, ArrayRecord)
    records: dict[str, SentRecord] = {}
    if asked in (MessageType.TRAIN, MessageType.EVALUATE):
        for key, record in arrays.items():
            if sent := _encode_record(key, record, settings, follow):
                records[key] = sent
    encoded = RecordDict(dict(content))
    for key, sent in records.items():
        if sent.parcel is not None:
            encoded[key] = sent.parcel
    if asked != MessageType.TRAIN:
        return EncodedContent(content, encoded, records, expects_parcels=False)
    expects_parcels = bool(records) and not settings.lossless_upload
    if expects_parcels:
        encoded[CONTROL] = _instructions(records, settings).to_record()
    whole = {k: r for k, r in arrays.items() if k not in records}
    return EncodedContent(content, encoded, records, expects_parcels, True, whole)


def _encode_record(
    key: str, record: ArrayRecord, settings: TransportSettings, follow: Follow | None
) -> SentRecord | None:
    """Return a record with its parcel; None if all its arrays travel whole."""
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
    records: dict[str, SentRecord], settings: TransportSettings
) -> Instructions:
    words: dict[str, Any] = {
        key: sent.word for key, sent in records.items() if sent.word != AUTO
    }
    return Instructions(
        density=settings.upload_density,
        upload_bytes=settings.upload_bytes,
        value_format=settings.value_format,
        sparse={key: sent.form.sparse for key, sent in records.items()},
        replies=words,
        quota=settings.quota,
    )


def with_memory(
    encoded: RecordDict, control: dict[str, Any], ways: dict[str, ArrayRecord]
) -> RecordDict:
    """Return one device's content: its ways to references, and its reminders.

    Parameters
    ----------
    encoded : RecordDict
        What all devices with this content are sent.
    control : dict[str, Any]
        Entries to add to its CONTROL record.
    ways : dict[str, ArrayRecord]
        The parcels with its ways, by key.
    """
    own = RecordDict(dict(encoded))
    for key, parcel in ways.items():
        own[key] = parcel
    if control:
        own[CONTROL] = ConfigRecord(
            dict(records_of(own, ConfigRecord).get(CONTROL, {})) | control
        )
    return own

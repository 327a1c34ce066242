"""The content of a message to clients, with its arrays encoded as parcels."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import ArrayRecord, MessageType, RecordDict

from flasc_flwr.core.methods.least import require_upload_bytes
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import pack_download
from flasc_flwr.flower.transport.rule import in_payload
from flasc_flwr.flower.transport.sent_record import SentRecord
from flasc_flwr.flower.wire import CONTROL, Instructions


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """How a SparseTransport sends arrays.

    Attributes
    ----------
    download_density, upload_density : float
        Largest fractions of the entries that are sent each way, in (0, 1].
    download_bytes, upload_bytes : int
        Most bytes of a payload each way; 0 is no limit.
    value_format : str
        Value format of both payloads.
    whole, sparse : tuple[str, ...]
        Names or patterns of arrays beside the rule of
        :func:`~flasc_flwr.flower.transport.rule.why_whole`.
    """

    download_density: float
    upload_density: float
    download_bytes: int
    upload_bytes: int
    value_format: str
    whole: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

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

    def _is_lossless(self, density: float, most_bytes: int) -> bool:
        return density == 1 and not most_bytes and self.value_format == "float32"


@dataclass(frozen=True, eq=False)
class EncodedContent:
    """The content of one or more messages, as the strategy made it and as it travels.

    Attributes
    ----------
    original : RecordDict
        The content that the inner strategy made.
    encoded : RecordDict
        What is sent.
    sent : dict[str, SentRecord]
        The records that the replies' updates are added to, by key; empty unless the
        message asks for training.
    expects_parcels : bool
        Whether replies are to hold parcels.
    whole : dict[str, ArrayRecord]
        The records that are to be trained and of which every array travels whole.
    """

    original: RecordDict
    encoded: RecordDict
    sent: dict[str, SentRecord]
    expects_parcels: bool
    whole: dict[str, ArrayRecord] = field(default_factory=dict)


def encode_content(
    content: RecordDict, message_type: str, settings: TransportSettings
) -> EncodedContent:
    """Encode the arrays of a message that asks for training or evaluation.

    Only training is asked to reply with parcels: arrays in other replies are not
    trained ones.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, or the bytes are too few for any payload.
    """
    category = message_type.partition(".")[0]
    records: dict[str, SentRecord] = {}
    if category in (MessageType.TRAIN, MessageType.EVALUATE):
        for key, record in content.array_records.items():
            if sent := _encode_record(record, settings):
                records[key] = sent
    encoded = RecordDict(dict(content))
    for key, sent in records.items():
        if sent.parcel is not None:
            encoded[key] = sent.parcel
    if category != MessageType.TRAIN:
        return EncodedContent(content, encoded, {}, expects_parcels=False)
    expects_parcels = bool(records) and not settings.lossless_upload
    if expects_parcels:
        for sent in records.values():
            most, layout = settings.upload_bytes, sent.form.layout
            require_upload_bytes(most, layout, settings.value_format)
        instructions = Instructions(
            density=settings.upload_density,
            upload_bytes=settings.upload_bytes,
            value_format=settings.value_format,
            sparse={key: sent.form.sparse for key, sent in records.items()},
        )
        encoded[CONTROL] = instructions.to_record()
    whole = {k: r for k, r in content.array_records.items() if k not in records}
    return EncodedContent(content, encoded, records, expects_parcels, whole)


def _encode_record(
    record: ArrayRecord, settings: TransportSettings
) -> SentRecord | None:
    """Return a record with its parcel; None if all its arrays travel whole."""
    sparse = in_payload(record, settings.whole, settings.sparse)
    if not sparse:
        return None
    form = Form.of(record, sparse)
    if settings.lossless_download:
        return SentRecord(record, form, parcel=None)
    parcel = pack_download(
        form,
        record,
        settings.download_density,
        settings.value_format,
        most_bytes=settings.download_bytes,
    )
    return SentRecord(record, form, parcel)

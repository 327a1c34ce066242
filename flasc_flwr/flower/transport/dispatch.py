"""Dispatches: the content of a message, and what travels in its place."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, MessageType, RecordDict

from flasc_flwr.flower.transport.base import Base
from flasc_flwr.flower.transport.parcel import Form, pack_download, sparse_arrays
from flasc_flwr.flower.wire import CONTROL, Instructions


@dataclass(frozen=True)
class Sparsity:
    """What a SparseTransport sends of the arrays.

    Attributes
    ----------
    download, upload : float
        Densities, in (0, 1].
    value_format : str
        Value format of both payloads.
    whole : tuple[str, ...], optional
        Patterns of the arrays that travel whole; None for the usual rule.
    """

    download: float
    upload: float
    value_format: str
    whole: tuple[str, ...] | None

    def exact(self, density: float) -> bool:
        """Tell whether nothing is lost at a density: plain arrays then travel."""
        return density == 1 and self.value_format == "float32"


@dataclass(frozen=True, eq=False)
class Dispatch:
    """The content of one or more messages, and what travels in its place.

    Attributes
    ----------
    original : RecordDict
        The content that the inner strategy made.
    travelling : RecordDict
        What is sent.
    bases : dict[str, Base]
        What the replies' arrays are relative to, if the message asks for training.
    asked : bool
        Whether replies are to hold parcels.
    """

    original: RecordDict
    travelling: RecordDict
    bases: dict[str, Base]
    asked: bool

    @property
    def needs_the_mod(self) -> bool:
        """Whether a ClientApp without flasc_mod cannot train."""
        return self.asked or not all(base.exact for base in self.bases.values())

    @classmethod
    def of(cls, content: RecordDict, message_type: str, sparsity: Sparsity) -> Dispatch:
        """Encode the arrays of a content that is sent to be trained or evaluated.

        Arrays in replies to other messages than training are no trained ones: these
        are not asked for in parcels.
        """
        category = message_type.partition(".")[0]
        bases: dict[str, Base] = {}
        if category in (MessageType.TRAIN, MessageType.EVALUATE):
            for key, record in content.array_records.items():
                if base := _base(record, sparsity):
                    bases[key] = base
        trained = category == MessageType.TRAIN
        asked = trained and bool(bases) and not sparsity.exact(sparsity.upload)
        travelling = RecordDict(dict(content))
        for key, base in bases.items():
            travelling[key] = base.sent
        if asked:
            order = Instructions(
                density=sparsity.upload,
                value_format=sparsity.value_format,
                sparse={key: base.form.sparse for key, base in bases.items()},
            )
            travelling[CONTROL] = order.to_record()
        return cls(content, travelling, bases if trained else {}, asked)


def _base(record: ArrayRecord, sparsity: Sparsity) -> Base | None:
    """Return a record with what is sent of it; None if all of it travels whole."""
    sparse = sparse_arrays(record, sparsity.whole)
    if not sparse:
        return None
    form = Form.of(record, sparse)
    if sparsity.exact(sparsity.download):
        return Base(record, form, record)
    parcel = pack_download(form, record, sparsity.download, sparsity.value_format)
    return Base(record, form, parcel)

"""Envelopes: a message's small records and its one payload in a single record.

Flower adds about 100 to 300 bytes for each record and each array of a message: names
and digests of the parts. Beside a payload of a few hundred bytes that is most of it.
"""

from __future__ import annotations

from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.compat import records_of
from flasc_flwr.flower.wire import (
    CONTROL,
    holds_payload,
    payload_of,
    payload_record,
)

MOST_BYTES = 1 << 16
"""Longer payloads travel as arrays, which Flower sends in chunks."""

_PAYLOAD = "payload"
_KEY = "payload-key"
_USUAL_KEY = "arrays"
_METRIC = "m/"
_CONFIG = "c/"
_MOST_ENTRIES = 1000


def sealed(content: RecordDict) -> RecordDict:
    """Return a content as one record; unchanged where that is not possible.

    It is possible if its only arrays are a payload of at most `MOST_BYTES`, if no
    record is empty or has a slash in its key, and if there are not too many entries.
    """
    arrays = records_of(content, ArrayRecord)
    if len(arrays) != 1 or not all(content.values()) or any("/" in k for k in content):
        return content
    ((key, record),) = arrays.items()
    if not holds_payload(record) or len(payload_of(record)) > MOST_BYTES:
        return content
    envelope: dict[str, Any] = dict(records_of(content, ConfigRecord).get(CONTROL, {}))
    envelope[_PAYLOAD] = payload_of(record)
    if key != _USUAL_KEY:
        envelope[_KEY] = key
    for prefix, records in (
        (_METRIC, records_of(content, MetricRecord)),
        (_CONFIG, records_of(content, ConfigRecord)),
    ):
        for name, entries in records.items():
            if name != CONTROL:
                for entry, value in entries.items():
                    envelope[f"{prefix}{name}/{entry}"] = value
    if len(envelope) > _MOST_ENTRIES:
        return content
    return RecordDict({CONTROL: ConfigRecord(envelope)})


def is_sealed(content: RecordDict) -> bool:
    """Return whether a content is an envelope."""
    return list(content) == [CONTROL] and _PAYLOAD in content[CONTROL]


def payload_in(content: RecordDict) -> bytes | None:
    """Return the payload in an envelope; None if the content is none."""
    if not is_sealed(content):
        return None
    payload = cast(ConfigRecord, content[CONTROL])[_PAYLOAD]
    return payload if isinstance(payload, bytes) else None


def opened(content: RecordDict) -> RecordDict:
    """Return the records of an envelope; any other content unchanged.

    Raises
    ------
    PayloadError
        If the envelope was not made by :func:`sealed`.
    """
    if not is_sealed(content):
        return content
    envelope = dict(cast(ConfigRecord, content[CONTROL]))
    if len(envelope) > _MOST_ENTRIES:
        raise PayloadError(
            f"an envelope must have at most {_MOST_ENTRIES} entries, got "
            f"{len(envelope)}"
        )
    payload = envelope.pop(_PAYLOAD)
    key = envelope.pop(_KEY, _USUAL_KEY)
    if not isinstance(payload, bytes) or not isinstance(key, str) or key == CONTROL:
        raise PayloadError("an envelope must have one payload in bytes, and its key")
    records: dict[str, dict[str, Any]] = {}
    for name in [n for n in envelope if n.startswith((_METRIC, _CONFIG))]:
        record, slash, entry = name[len(_METRIC) :].partition("/")
        if not slash or record in (CONTROL, key):
            raise PayloadError("an envelope must name each entry by record and name")
        records.setdefault(name[: len(_METRIC)] + record, {})[entry] = envelope.pop(
            name
        )
    result = RecordDict({key: payload_record(payload)})
    for name, entries in records.items():
        make = MetricRecord if name.startswith(_METRIC) else ConfigRecord
        record = name[len(_METRIC) :]
        if record in result:
            raise PayloadError("an envelope must name each record once")
        try:
            result[record] = make(entries)
        except (TypeError, ValueError):
            raise PayloadError("an envelope must hold numbers as metrics") from None
    if envelope:
        result[CONTROL] = ConfigRecord(envelope)
    return result

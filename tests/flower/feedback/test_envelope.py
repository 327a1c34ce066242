"""Envelopes: what comes out is what was put in, and nothing else is let in."""

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.envelope import MOST_BYTES, is_sealed, opened, payload_in, sealed
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import CONTROL, array_record, message_bytes, payload_record
from tests.flower.apps import adapter, client_app

NAMES = st.text(st.characters(codec="ascii", exclude_characters="/"), min_size=1)
NUMBERS = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False))


def content(payload=b"x" * 500, **records):
    return RecordDict({"arrays": payload_record(payload), **records})


@given(
    st.binary(min_size=1, max_size=300),
    st.dictionaries(st.text(), NUMBERS, min_size=1),
    st.dictionaries(st.text(), st.one_of(NUMBERS, st.text(), st.binary()), min_size=1),
    NAMES,
)
def test_what_comes_out_is_what_was_put_in(payload, metrics, config, name):
    whole = RecordDict({name: payload_record(payload)})
    whole["m" + name] = MetricRecord(metrics)
    whole["c" + name] = ConfigRecord(config)
    if name == CONTROL:
        return
    envelope = sealed(whole)
    assert is_sealed(envelope) and payload_in(envelope) == payload
    assert opened(envelope) == whole


def test_a_control_record_comes_out_too():
    whole = content(**{CONTROL: ConfigRecord({"upload-density": 0.5})})
    assert opened(sealed(whole)) == whole


@pytest.mark.parametrize(
    "records",
    [
        {"arrays": array_record(adapter())},
        {"arrays": payload_record(bytes(MOST_BYTES + 1))},
        {"more": payload_record(b"y")},
        {"empty": ConfigRecord()},
        {"a/b": ConfigRecord({"c": 1})},
        {"many": ConfigRecord({f"class {i}": i for i in range(1000)})},
    ],
)
def test_what_does_not_fit_stays_as_it_is(records):
    whole = content()
    for key, record in records.items():
        whole[key] = record
    assert sealed(whole) is whole
    assert opened(whole) is whole
    assert payload_in(whole) is None


@pytest.mark.parametrize(
    "entries",
    [
        {"payload": "text"},
        {"payload-key": 3},
        {"payload-key": CONTROL},
        {"m/metrics/loss": "text"},
        {"m/metrics": 1.0},
        {f"c/{CONTROL}/memory-round": 1},
        {"c/arrays/x": 1},
        {"c/same/x": 1, "m/same/x": 1},
        {f"c/config/{i}": i for i in range(1001)},
    ],
)
def test_an_envelope_that_was_not_made_here_is_refused(entries):
    envelope = ConfigRecord({"payload": b"x", **entries})
    with pytest.raises(PayloadError, match="an envelope must"):
        opened(RecordDict({CONTROL: envelope}))


def test_an_envelope_saves_most_of_what_flower_adds():
    LocalGrid(client_app(), 1)  # gives messages their process's identity
    whole = content(
        config=ConfigRecord({"server-round": 3}),
        **{CONTROL: ConfigRecord({"upload-density": 0.5, "value-format": "int4"})},
    )
    sizes = [
        message_bytes([Message(each, 1, "train")])[0] - 500
        for each in (whole, sealed(whole))
    ]
    assert sizes[1] < sizes[0] / 2

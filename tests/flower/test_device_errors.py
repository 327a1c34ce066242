"""Errors that leave a device have names, shapes and limits, no value of an array."""

import re
import string

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError
from flasc_flwr.flower.wire import (
    PAYLOAD,
    STYPE,
    array_record,
    payload_of,
    payload_record,
)
from tests.flower.apps import client_app
from tests.flower.device import ask, content, download, order, vector
from tests.payload_bytes import resealed

SECRET = np.float32(0.123456789)


def secret_arrays(change):
    """Return a train function whose update holds one value, and that is broken."""

    def trainer(arrays, client, current):
        return change({n: v + SECRET for n, v in arrays.items()})

    return trainer


def with_first(value):
    def change(arrays):
        first = next(iter(arrays))
        arrays[first] = arrays[first].copy()
        arrays[first].flat[0] = value
        return arrays

    return change


BROKEN = {
    "nan": with_first(np.nan),
    "infinite": with_first(np.inf),
    "missing": lambda arrays: dict(list(arrays.items())[1:]),
    "renamed": lambda arrays: {f"{n}\n\x1b[2J": v for n, v in arrays.items()},
    "shapes": lambda arrays: {n: v[:1] for n, v in arrays.items()},
    "numbers as text": lambda arrays: {n: v.astype(str) for n, v in arrays.items()},
    "text": lambda arrays: {n: np.full(v.shape, "my 0.5") for n, v in arrays.items()},
    "complex": lambda arrays: {n: v * (1 + 1j) for n, v in arrays.items()},
    "whole numbers": lambda arrays: {n: v.astype(bool) for n, v in arrays.items()},
    "many": lambda arrays: {
        f"{n}{i}": v for n, v in arrays.items() for i in range(999)
    },
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_errors_of_an_upload_hold_no_value_of_it(change, clip_norm):
    message = content(control=order(clip_norm=clip_norm))
    app = client_app(secret_arrays(change))
    try:
        ask(message, app)
    except ValueError as error:
        assert reveals_nothing(str(error))
    else:
        assert change is BROKEN["whole numbers"]  # these are numbers, too


def test_a_value_too_large_for_its_format_is_not_named():
    app = client_app(secret_arrays(with_first(3.4e38)))
    with pytest.raises(ValueError) as raised:
        ask(content(control=order(value_format="bfloat16", density=1.0)), app)
    assert reveals_nothing(str(raised.value))


def test_errors_of_a_download_hold_no_value_of_it():
    for change in range(52, 400, 7):
        payload = bytearray(payload_of(download(0.5)))
        payload[change % len(payload)] ^= 0xFF
        try:
            ask(content(payload_record(resealed(payload))), client_app())
        except PayloadError as error:
            assert reveals_nothing(str(error))


def reveals_nothing(text):
    """Return whether a text is printable, short, and has no fractions."""
    assert text.isprintable()
    assert len(text) < 500
    assert set(text) <= set(string.printable)
    return not re.search(r"\d\.\d|\de[+-]?\d", text)


def test_a_control_record_of_another_type_is_not_read():
    with pytest.raises(PayloadError):
        ask(content(control=array_record({"a": vector(3)})) | {"arrays": broken()})


def broken():
    return ArrayRecord({PAYLOAD: Array("uint8", (3,), STYPE, b"abc")})

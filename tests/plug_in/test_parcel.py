"""Parcels: which arrays they hold, and what they do with bytes of strangers."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.transport.parcel import (
    DOWNLOAD,
    Form,
    open_download,
    open_upload,
    pack_download,
    pack_upload,
    sparse_arrays,
)
from flasc_flwr.flower.wire import PAYLOAD, Instructions, array_record
from tests.plug_in.plain import mixed


def record(**shapes):
    return array_record(
        {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    )


def names(record, whole=None):
    return [list(record)[index] for index in sparse_arrays(record, whole)]


def test_arrays_of_fewer_than_two_axes_travel_whole():
    model = record(kernel=(3, 3, 8, 8), matrix=(8, 8), bias=(8,), scale=())
    assert names(model) == ["kernel", "matrix"]


def test_without_matrices_vectors_do_not_travel_whole():
    assert names(record(coef=(500,), intercept=())) == ["coef"]
    assert names(record(scale=())) == ["scale"]


def test_names_and_patterns_replace_the_rule():
    model = record(**{"a.weight": (4, 4), "a.bias": (4,), "b.weight": (4, 4)})
    assert names(model, whole=[]) == ["a.weight", "a.bias", "b.weight"]
    assert names(model, whole=["b.*", "*.bias"]) == ["a.weight"]


def test_what_is_not_a_floating_point_array_travels_whole():
    arrays = array_record(
        {
            "int": np.ones((3, 3), np.int64),
            "bool": np.ones((3, 3), bool),
            "complex": np.ones((3, 3), np.complex64),
            "swapped": np.ones((3, 3), ">f4"),
            "empty": np.ones((0, 3), np.float32),
            "float16": np.ones((3, 3), np.float16),
        }
    )
    arrays["foreign"] = Array("float32", (3, 3), "somebody.else", b"xyz")
    assert names(arrays) == ["float16"]


def parcel():
    arrays = array_record(mixed())
    form = Form.of(arrays, sparse_arrays(arrays, None))
    return form, arrays, pack_download(form, arrays, 1 / 2, "bfloat16")


def test_a_download_opens_to_its_own_form():
    form, arrays, packed = parcel()
    opened, received = open_download(packed)
    assert opened.names == form.names == tuple(mixed())
    assert opened.layout == form.layout
    assert opened.sparse == form.sparse == (1, 3, 5)
    assert {n: (a.dtype, a.shape) for n, a in received.items()} == {
        n: (a.dtype, a.shape) for n, a in arrays.items()
    }


@pytest.mark.parametrize(
    "place", ["counter", "x/counter", "9/counter", "0/weight", "/counter"]
)
def test_arrays_in_wrong_places_are_refused(place):
    form, arrays, packed = parcel()
    down, up = (
        ArrayRecord(dict(packed)),
        pack_upload(form, arrays, arrays, Instructions(density=1.0)),
    )
    for spoilt in (down, up):
        spoilt[place] = spoilt.pop("0/counter")
    with pytest.raises(PayloadError):
        open_upload(up, form)
    with pytest.raises(PayloadError):
        open_download(down)


def test_an_upload_lacks_and_adds_nothing():
    form, arrays, _ = parcel()
    up = pack_upload(form, arrays, arrays, Instructions(density=1.0))
    counter = up.pop("0/counter")
    with pytest.raises(PayloadError, match="not those that were sent"):
        open_upload(up, form)
    up["0/counter"] = up["1/counter"] = counter
    with pytest.raises(PayloadError, match="not those that were sent"):
        open_upload(up, form)


def test_a_download_without_layout_is_refused():
    _, _, packed = parcel()
    layout = Layout.of({"w": np.ones((3, 3), np.float32)})
    bare = encode(top_k(np.ones(9, np.float32), 1.0), layout=layout)
    spoilt = ArrayRecord(dict(packed))
    spoilt[PAYLOAD] = Array("uint8", (len(bare),), DOWNLOAD, bare)
    with pytest.raises(PayloadError, match="carries no layout"):
        open_download(spoilt)


def test_random_bytes_are_refused():
    form, arrays, packed = parcel()
    order = Instructions(density=0.5)
    up = pack_upload(form, arrays, open_download(packed)[1], order)
    rng = np.random.default_rng(0)
    for _ in range(300):
        payload = bytearray(up[PAYLOAD].data)
        payload[rng.integers(len(payload))] ^= int(rng.integers(1, 256))
        spoilt = ArrayRecord(dict(up))
        spoilt[PAYLOAD] = Array("uint8", (len(payload),), "x", bytes(payload))
        with pytest.raises(PayloadError):
            open_upload(spoilt, form)


def test_arrays_that_hold_nan_cannot_be_sent():
    broken = record(w=(4, 4))
    broken["w"] = Array(np.full((4, 4), np.nan, np.float32))
    form = Form.of(broken, (0,))
    with pytest.raises(ValueError, match="nan at position 0"):
        pack_download(form, broken, 1 / 2, "float32")

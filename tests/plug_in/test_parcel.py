"""Parcels: packed and opened again; corrupt and foreign ones are rejected."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flasc_flwr.core.codec import PayloadError, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.transport.download_parcel import open_download, pack_download
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import DOWNLOAD
from flasc_flwr.flower.transport.rule import in_payload
from flasc_flwr.flower.transport.upload_parcel import open_upload, pack_upload
from flasc_flwr.flower.wire import PAYLOAD, array_record
from tests.plug_in.numpy_app import SPARSE, apart, mixed


def parcel():
    arrays = array_record(mixed())
    form = Form.of(arrays, in_payload(arrays, sparse=SPARSE))
    return form, arrays, apart(pack_download(form, arrays, 1 / 2, "bfloat16"))


def upload(form, reply):
    """Return a reply's parcel, with an update of ones."""
    update = top_k(np.ones(form.layout.size, np.float32), 1 / 2)
    payload = encode(update, layout=form.layout)
    return apart(pack_upload(form, payload, form.part_in(reply), reply))


def test_a_download_opens_to_the_form_it_was_packed_with():
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
def test_arrays_at_wrong_indices_are_rejected(place):
    form, arrays, packed = parcel()
    down, up = ArrayRecord(dict(packed)), upload(form, arrays)
    for spoilt in (down, up):
        spoilt[place] = spoilt.pop("0/counter")
    with pytest.raises(PayloadError):
        open_upload(up, form)
    with pytest.raises(PayloadError):
        open_download(down)


def test_an_upload_without_or_with_more_arrays_is_rejected():
    form, arrays, _ = parcel()
    up = upload(form, arrays)
    counter = up.pop("0/counter")
    with pytest.raises(PayloadError, match="not those that were sent"):
        open_upload(up, form)
    up["0/counter"] = up["1/counter"] = counter
    with pytest.raises(PayloadError, match="not those that were sent"):
        open_upload(up, form)


def test_a_download_without_layout_is_rejected():
    _, _, packed = parcel()
    layout = Layout.of({"w": np.ones((3, 3), np.float32)})
    bare = encode(top_k(np.ones(9, np.float32), 1.0), layout=layout)
    spoilt = ArrayRecord(dict(packed))
    spoilt[PAYLOAD] = Array("uint8", (len(bare),), DOWNLOAD, bare)
    with pytest.raises(PayloadError, match="carries no layout"):
        open_download(spoilt)


def test_corrupt_bytes_are_rejected():
    form, arrays, _ = parcel()
    up = upload(form, arrays)
    rng = np.random.default_rng(0)
    for _ in range(300):
        payload = bytearray(up[PAYLOAD].data)
        payload[rng.integers(len(payload))] ^= int(rng.integers(1, 256))
        spoilt = ArrayRecord(dict(up))
        spoilt[PAYLOAD] = Array("uint8", (len(payload),), "x", bytes(payload))
        with pytest.raises(PayloadError):
            open_upload(spoilt, form)


def test_arrays_that_hold_nan_cannot_be_sent():
    broken = array_record({"w": np.full((4, 4), np.nan, np.float32)})
    form = Form.of(broken, (0,))
    with pytest.raises(ValueError, match="^array 'w' must hold finite numbers$"):
        pack_download(form, broken, 1 / 2, "float32")

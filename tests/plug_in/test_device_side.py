"""The device's side of SparseTransport does not trust the server either."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec import PayloadError, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.device_limits import RefusedDownloadError
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport.download_parcel import open_download, pack_download
from flasc_flwr.flower.transport.form import Form
from flasc_flwr.flower.transport.parcel import DOWNLOAD
from flasc_flwr.flower.transport.rule import in_payload
from flasc_flwr.flower.wire import CONTROL, PAYLOAD, array_record
from tests.plug_in.numpy_app import SPARSE, apart, client_app, floats, mixed, step

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck))
RECORD = array_record(mixed())
FORM = Form.of(RECORD, in_payload(RECORD, sparse=SPARSE))
N = FORM.layout.size


def parcel(density=1.0):
    return pack_download(FORM, RECORD, density, "float32")


def order(sparse=FORM.sparse, density=0.25):
    return Instructions(density=density, sparse={"arrays": sparse}).to_record()


def ask(arrays, control=None, train=step, **node_config):
    """Run one message through the mod, as on a device with this --node-config."""
    app = client_app(train)
    LocalGrid(app, 1)  # gives messages their process's identity
    records = {
        "arrays": arrays,
        "config": ConfigRecord({"server-round": 1}),
        CONTROL: control or order(),
    }
    message = Message(RecordDict(records), 1, "train")
    given = {"partition-id": 0, **node_config}
    return app(message, Context(0, 1, given, state=RecordDict(), run_config={}))


def refused(arrays, control=None, **node_config):
    """Return why a device refuses a download; its app must not run."""

    def never(*_):
        raise AssertionError("the app was called")

    with pytest.raises(RefusedDownloadError) as raised:
        ask(arrays, control, never, **node_config)
    assert str(raised.value).isprintable()
    return str(raised.value)


def test_a_parcel_within_the_devices_budget_is_trained_on():
    reply = ask(
        parcel(0.1), **{"download-density": 0.1, "upload-density": 0.25, "lora-rank": 1}
    )
    assert not reply.has_error()


def test_a_parcel_denser_than_the_devices_own_is_refused():
    reason = refused(parcel(0.5), **{"download-density": "1/10"})
    assert "this device's download-density 0.1, got" in reason


def test_dense_arrays_instead_of_a_parcel_are_refused_alike():
    reason = refused(RECORD, **{"download-density": 0.5})
    assert f"of {N}, at this device's download-density 0.5, got {N}" in reason


def test_an_upload_denser_than_the_devices_own_is_refused():
    assert "this device's upload-density" in refused(
        parcel(), **{"upload-density": 0.1}
    )


def test_a_rank_above_the_devices_own_is_refused():
    lora = array_record(
        {
            "q.lora_A.weight": np.ones((8, 5), np.float32),
            "q.lora_B.weight": np.ones((5, 8), np.float32),
        }
    )
    form = Form.of(lora, (0, 1))
    reason = refused(
        pack_download(form, lora, 1.0, "float32"), order((0, 1)), **{"lora-rank": 4}
    )
    assert "lora-rank, got 8" in reason


def test_sizes_are_checked_before_memory_is_taken():
    assert "max-entries" in refused(parcel(), **{"max-entries": N - 1})
    assert "max-entries" in refused(RECORD, **{"max-entries": N - 1})
    assert "max-download-bytes" in refused(parcel(), **{"max-download-bytes": 100})
    # An Array may claim any shape, whatever its data.
    claimed = ArrayRecord(
        {"w": Array("float32", (1 << 20, 1 << 20), "numpy.ndarray", b"")}
    )
    tracemalloc.start()
    try:
        assert "max-entries" in refused(claimed, order((0,)))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "indices"),
    [
        (RECORD, (0,)),  # whole numbers
        (RECORD, (100,)),
        (RECORD, ()),
        (ArrayRecord({"w": Array("object", (2,), "numpy.ndarray", b"")}), (0,)),
        (ArrayRecord({"w": Array("float32", (-2,), "numpy.ndarray", b"")}), (0,)),
        (ArrayRecord({"w": Array("float32", (2,), "other", b"")}), (0,)),
    ],
    ids=["integers", "outside", "none", "objects", "negative", "other"],
)
def test_instructions_for_arrays_that_cannot_be_sparse_are_refused(arrays, indices):
    with pytest.raises(PayloadError, match="download refused"):
        ask(arrays, order(indices))


def with_keys(change):
    """Return a parcel with other keys of the arrays that travel whole."""
    changed = ArrayRecord()
    for key, array in apart(parcel()).items():
        changed[key if key == PAYLOAD else change(key)] = array
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "9" * 5000 + "/x" if key.startswith("0") else key,
        lambda key: "\x1b[2J\n" * 5000 if key.startswith("0") else key,
        lambda key: "77/x" if key.startswith("0") else key,
        lambda key: "0" + key if key.startswith("2") else "2/" + key,
        lambda key: key.split("/")[0] + "/weight",
    ],
    ids=["digits", "text", "outside", "twice", "name twice"],
)
def test_whole_arrays_with_keys_that_make_no_sense_are_refused(change):
    with pytest.raises(PayloadError) as raised:
        ask(with_keys(change))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


def test_thousands_of_arrays_are_opened_quickly():
    layout = Layout.of({f"t{i}": np.zeros(1, np.float32) for i in range(20_000)})
    payload = encode(
        top_k(np.ones(layout.size, np.float32), 1.0), layout=layout, carry_layout=True
    )
    array = Array("uint8", (len(payload),), DOWNLOAD, payload)
    form, _ = open_download(ArrayRecord({PAYLOAD: array}))
    assert len(form.names) == 20_000


@QUICK
@given(
    payload=st.binary(max_size=200),
    keys=st.lists(st.text(max_size=6) | st.from_regex(r"\d{1,3}/\w?"), max_size=3),
)
def test_any_parcel_gives_arrays_or_a_payload_error(payload, keys):
    record = ArrayRecord({PAYLOAD: Array("uint8", (len(payload),), DOWNLOAD, payload)})
    for key in keys:
        record[key] = RECORD["bias"]
    try:
        ask(record)
    except PayloadError as error:
        assert str(error).isprintable()


def test_errors_of_an_upload_hold_no_value_of_it():
    def diverged(arrays, client, current):
        return {n: a + a.dtype.type(0.123456789) * np.nan for n, a in floats().items()}

    with pytest.raises(ValueError) as raised:
        ask(
            pack_download(
                Form.of(array_record(floats()), (0,)),
                array_record(floats()),
                1.0,
                "float32",
            ),
            order((0,)),
            diverged,
        )
    assert str(raised.value) == "array 'weight' must hold finite numbers"
    assert "0.12" not in str(raised.value)

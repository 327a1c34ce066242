"""The device does not trust the server: what flasc_mod refuses."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord

from flasc_flwr import Flasc
from flasc_flwr.core.codec import PayloadError, decode, encode
from flasc_flwr.core.codec.bits import varint
from flasc_flwr.core.layout import Layout, Role, Tensor
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.methods.trainable import SUPPORT
from flasc_flwr.core.settings import settings_of
from flasc_flwr.core.sparsity import SparseVector
from flasc_flwr.flower.device_limits import DeviceLimits, RefusedDownloadError
from flasc_flwr.flower.wire import (
    CONTROL,
    MERGED,
    PAYLOAD,
    array_record,
    payload_of,
    payload_record,
)
from tests.flower.apps import RecordingGrid, adapter, client_app
from tests.flower.device import (
    N,
    ask,
    content,
    download,
    huge_payload,
    order,
    trains,
    vector,
)
from tests.payload_bytes import FINGERPRINT_AT, VERSION_AT, changed

ROOT = Path(__file__).parents[2]
RANK_4 = {"lora-rank": 4}


def test_without_limits_any_budget_is_accepted():
    assert trains(content(control=order(density=1.0))) is True


def test_a_rank_above_the_devices_own_is_refused():
    assert trains(content(), **{"lora-rank": 4}) is True
    refusal = trains(content(), **{"lora-rank": 3})
    assert refusal == (
        "rank of the download must be <= 3, this device's lora-rank, got 4"
    )


def test_a_rank_is_found_in_b_and_behind_other_roles_too():
    wide = {**adapter(), "layer.lora_B.weight": np.zeros((7, 9), np.float32)}
    assert "got 9" in trains(content(download(layout=Layout.of(wide))), **RANK_4)
    hidden = Layout.of(adapter(rank=9), dict.fromkeys(adapter(), Role.OTHER))
    assert "got 9" in trains(content(download(layout=hidden)), **RANK_4)


@pytest.mark.parametrize("own", [0.1, "1/10"])
def test_a_download_denser_than_the_devices_own_is_refused(own):
    mine = {"download-density": own}
    assert trains(content(download(0.1)), **mine) is True
    refusal = trains(content(download(0.5)), **mine)
    assert "entries of the download must be <=" in refusal
    assert "this device's download-density 0.1, got" in refusal


def test_an_upload_denser_than_the_devices_own_is_refused():
    mine = {"upload-density": 0.1}
    assert trains(content(control=order(density=0.1)), **mine) is True
    refusal = trains(content(control=order(density=0.5)), **mine)
    assert "entries of the upload must be <=" in refusal


def test_an_upload_on_the_support_counts_what_it_would_send():
    """The density that it names is not what would travel."""
    lie = order(density=0.01, on_support=True)
    assert "entries of the upload" in trains(
        content(download(0.9), lie), **{"upload-density": 0.1}
    )
    assert trains(content(download(0.05), lie), **{"upload-density": 0.1}) is True


def test_evaluation_is_refused_alike():
    message = {"arrays": download(0.5), "config": ConfigRecord({"server-round": 1})}
    with pytest.raises(RefusedDownloadError):
        ask(message, client_app(), "evaluate", **{"download-density": 0.1})


def test_densities_on_the_servers_grid_are_accepted():
    """The server rounds densities down to 1/4096, and smaller ones up to that."""
    layout = Layout.of({"w": np.zeros(100_000, np.float32)})
    message = content(download(1 / 4096, layout), order(density=1 / 4096))
    tiny = {"download-density": 1e-6, "upload-density": 1e-6}
    assert trains(message, **tiny) is True
    denser = content(download(4 / 4096, layout), order(density=1 / 4096))
    assert "entries of the download" in trains(denser, **tiny)


def test_a_method_that_prescribes_a_density_must_declare_it_and_may_be_refused():
    declared = order(
        density=1.0, prescribed=frozenset({"download-density", "upload-density"})
    )
    mine = {"download-density": 0.1, "upload-density": 0.1}
    assert trains(content(control=declared), **mine) is True
    strict = trains(content(control=declared), **mine, **{"strict-budget": True})
    assert strict.endswith(
        "the method prescribes that, and the device sets strict-budget"
    )


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"replication"}))
@pytest.mark.parametrize("fraction_evaluate", [0.0, 1.0])
def test_every_method_keeps_to_a_devices_budget_or_declares_that_it_does_not(
    name, fraction_evaluate
):
    """Nobody refuses an honest server, whatever it runs."""
    own = [
        {"download-density": 0.07, "upload-density": 0.03},
        {"download-density": "1/3", "lora-rank": 2},
        {"upload-density": 0.9, "lora-rank": 1, "tier": 0},
        {"download-density": 1e-6, "upload-density": 1e-6},
    ]
    grid = RecordingGrid(client_app(), 4, node_configs=own)
    strategy = Flasc(
        method=name, fraction_train=1.0, fraction_evaluate=fraction_evaluate
    )
    strategy.start(grid, array_record(adapter()), 3)
    assert [row["failures"] for row in strategy.state.history] == [[]] * 4


def test_strict_devices_refuse_a_dense_method_and_the_reason_reaches_the_server():
    strict = {"upload-density": 0.1, "strict-budget": True}
    grid = RecordingGrid(client_app(), 3, node_configs=[strict, {}, {}])
    strategy = Flasc(method="dense", fraction_train=1.0)
    strategy.start(grid, array_record(adapter()), 1)
    (failure,) = strategy.state.history[1]["failures"]
    assert failure["client"] == "0"
    assert "this device's upload-density 0.1" in failure["reason"]


def test_only_messages_to_devices_with_their_own_density_declare_anything():
    grid = RecordingGrid(client_app(), 2, node_configs=[{"upload-density": 0.1}, {}])
    strategy = Flasc(method="dense", fraction_train=1.0)
    strategy.start(grid, array_record(adapter()), 1)
    declared = {
        m.metadata.dst_node_id: m.content[CONTROL].get("prescribed")
        for m in grid.down
        if "arrays" in m.content
    }
    assert declared == {1: ["upload-density"], 2: None}
    payloads = {
        payload_of(m.content["arrays"]) for m in grid.down if "arrays" in m.content
    }
    assert len(payloads) == 1


def test_the_crafted_payload_is_valid():
    assert decode(huge_payload((5000,)), 5000).kept == 0


def test_a_few_bytes_cannot_ask_for_gigabytes():
    payload = payload_record(huge_payload((1 << 32,)))
    assert len(payload[PAYLOAD].data) < 50_000
    assert peak(content(payload)) < 20e6
    assert "must be <= 2147483648, this device's max-entries" in trains(
        content(payload)
    )
    small = payload_record(huge_payload((1_000_001,)))
    assert trains(content(small), **{"max-entries": 1_000_001}) is True
    assert peak(content(small), **{"max-entries": 1_000_000}) < 3e6


def test_the_entries_of_all_payloads_add_up():
    message = content(**{MERGED: download()})
    assert trains(message, **{"max-entries": 2 * N}) is True
    assert "max-entries" in trains(message, **{"max-entries": 2 * N - 1})


def test_a_download_of_more_bytes_than_the_device_takes_is_refused():
    message = content(plain=array_record({"w": vector(1000)}))
    size = len(message["arrays"][PAYLOAD].data) + len(message["plain"]["w"].data)
    assert trains(message, **{"max-download-bytes": size}) is True
    assert "max-download-bytes" in trains(message, **{"max-download-bytes": size - 1})


def test_a_layout_of_countless_tensors_is_refused(monkeypatch):
    # A sender of this library does not send it.
    monkeypatch.setattr("flasc_flwr.core.codec.carried.MOST_TENSORS", 1 << 20)
    names = (str(i) for i in range(70_000))
    layout = Layout.of({name: np.zeros(1, np.float32) for name in names})
    assert "tensors of the download must be" in trains(content(download(layout=layout)))


def test_what_is_merged_has_neither_rank_nor_density():
    message = content(download(0.1), **{MERGED: download(1.0)})
    assert trains(message, **{"download-density": 0.1}) is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max-entries", 0),
        ("max-download-bytes", -1),
        ("strict-budget", "yes"),
        ("lora-rank", 1.5),
        ("download-density", 0),
        ("upload-density", "a/b"),
    ],
)
def test_a_limit_that_is_out_of_range_is_named(key, value):
    with pytest.raises(ValueError, match=f"{key} must be .*, got {value!r}"):
        ask(content(), **{key: value})


def test_the_deployment_page_lists_every_setting_of_a_device():
    page = (ROOT / "docs" / "deploy.md").read_text()
    for declared in settings_of(DeviceLimits).values():
        assert f"`{declared.key}`" in page


def peak(message_content, **node_config):
    """Return the most memory that a message takes, in bytes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        trains(message_content, **node_config)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_layout_that_contradicts_the_header_is_refused():
    payload = changed(huge_payload((5000,)), FINGERPRINT_AT + 8, varint(4000))
    with pytest.raises(PayloadError, match="layout does not match"):
        ask(content(payload_record(payload)))


def test_another_version_is_refused():
    payload = bytearray(payload_of(download()))
    payload[VERSION_AT] = 4
    with pytest.raises(PayloadError, match="version 4, this is 3"):
        ask(content(payload_record(bytes(payload))))


@pytest.mark.parametrize("shape", [(), (0, 1 << 40, 1 << 40), (1, 1, 0)])
@pytest.mark.parametrize("role", [*Role])
def test_odd_shapes_are_refused_or_read(shape, role):
    layout = Layout(
        (Tensor("x", shape, "float16", role), Tensor("y", (3,), "float16", role))
    )
    seeded = order(init_seed=3, trainable=SUPPORT)
    try:
        assert trains(content(download(layout=layout), seeded), **RANK_4)
    except PayloadError as error:
        assert "download refused" in str(error)


def test_a_value_beyond_its_dtype_is_refused():
    layout = Layout.of({"w": np.zeros(3, np.float16)})
    sparse = SparseVector.of_dense(np.array([1, 1e30, 2], np.float32))
    payload = encode(sparse, layout=layout, carry_layout=True)
    with pytest.raises(PayloadError, match="'w' has a value too large for float16"):
        ask(content(payload_record(payload)))

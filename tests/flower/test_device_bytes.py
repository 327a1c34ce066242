"""A device's own bytes: what it sends and takes, whatever the server asks."""

import numpy as np
import pytest
from flwr.app import ConfigRecord

from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.wire import CONTROL, PAYLOAD, array_record, payload_of
from tests.flower.apps import client_app, nudge
from tests.flower.device import ask, content, download, order, trains, vector


def big_download():
    layout = Layout.of({"w.weight": np.zeros((100, 100), np.float32)})
    return download(1.0, layout), layout.size


def sends(control, app=nudge, **node_config):
    arrays, size = big_download()
    reply = ask(content(arrays, control), client_app(app), **node_config)
    payload = payload_of(reply.content["arrays"])
    return len(payload), decode(payload, size)


def test_the_devices_own_bytes_hold_whatever_the_server_asks():
    asked = order(density=1.0, value_format="bfloat16")
    length, _ = sends(asked, **{"upload-bytes": 1001})
    assert 0.97 * 1001 <= length <= 1001
    more = order(density=1.0, upload_bytes=5000, value_format="bfloat16")
    assert sends(more, **{"upload-bytes": 1001})[0] == length
    less = order(density=1.0, upload_bytes=500, value_format="bfloat16")
    assert 0.97 * 500 <= sends(less, **{"upload-bytes": 1001})[0] <= 500
    assert sends(less)[0] <= 500
    support = order(density=1.0, on_support=True)
    assert 0.97 * 1001 <= sends(support, **{"upload-bytes": 1001})[0] <= 1001


def test_a_device_with_bytes_refuses_no_density():
    assert trains(content(control=order(density=1.0)), **{"upload-bytes": 200}) is True


def test_a_device_with_too_few_bytes_refuses_before_it_trains():
    refusal = trains(content(), **{"upload-bytes": 20})
    assert refusal.startswith("upload-bytes must be >= ")
    assert refusal.endswith(" for this adapter, got 20")
    asked = content(control=order(upload_bytes=5))
    assert trains(asked).endswith(" for this adapter, got 5")


def test_a_larger_download_is_refused_by_its_key():
    message = content()
    size = len(message["arrays"][PAYLOAD].data)
    assert trains(message, **{"download-bytes": size}) is True
    refusal = trains(message, **{"download-bytes": size - 1})
    assert refusal == (
        f"bytes of the download's payload must be <= {size - 1}, this device's "
        f"download-bytes, got {size}"
    )
    beside = content(plain=array_record({"w": vector(1000)}))
    assert trains(beside, **{"download-bytes": size}) is True


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("upload-bytes", "'auto' or an integer >= 0"),
        ("download-bytes", "an integer >= 0"),
    ],
)
@pytest.mark.parametrize("bad", [-1, "4000", 0.5, True])
def test_a_devices_setting_that_is_out_of_range_is_named(key, allowed, bad):
    with pytest.raises(ValueError, match=f"{key} must be {allowed}, got {bad!r}"):
        ask(content(), **{key: bad})


@pytest.mark.parametrize(
    "bad",
    ["4000", -1, 0, 1.5, True, b"\x00" * 10_000, [4000], -(10**400), "9" * 10**6],
    ids=range(9),
)
def test_hostile_instructions_give_one_short_error(bad):
    record = ConfigRecord(
        {"upload-density": 0.5, "value-format": "float32", "upload-bytes": bad}
    )
    with pytest.raises(ValueError, match="upload-bytes must be an integer") as raised:
        Instructions.from_record(record)
    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()


def test_huge_bytes_are_no_limit():
    record = order(density=0.5)
    record["upload-bytes"] = 2**63 - 1
    message = content(control=record)
    assert CONTROL in message
    assert trains(message) is True
    assert sends(Instructions(density=1.0, upload_bytes=10**400).to_record())[0] > 9000


def test_bytes_without_a_density_are_an_unknown_entry():
    with pytest.raises(ValueError, match="unknown entries"):
        Instructions.from_record(ConfigRecord({"upload-bytes": 400}))


def test_instructions_survive_their_record():
    given = Instructions(density=1.0, upload_bytes=400)
    assert Instructions.from_record(given.to_record()) == given

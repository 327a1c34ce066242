"""SparseTransport with bytes as the budget: payloads measured where they travel."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from flasc_flwr import SparseTransport
from flasc_flwr.core.codec import decode
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import PAYLOAD, array_record, arrays_of
from tests.plug_in.numpy_app import (
    MASKS,
    NotingFedAvg,
    RecordingGrid,
    client_app,
    run_wrapped,
    step,
)


def arrays():
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((60, 70)).astype(np.float32),
        "double": rng.standard_normal((30, 40)),
        "bias": rng.standard_normal(70).astype(np.float32),
        "counter": np.array(3, np.int64),
    }


N = 60 * 70 + 30 * 40


def lengths(messages):
    return [
        len(message.content["arrays"][PAYLOAD].data)
        for message in messages
        if message.has_content() and PAYLOAD in message.content.get("arrays", {})
    ]


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int4"])
@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_the_bytes_are_used_and_never_exceeded(values, inner):
    transport, grid, result = run_wrapped(
        client_app(),
        inner(fraction_evaluate=0),
        arrays=array_record(arrays()),
        rounds=3,
        download_bytes=1500,
        upload_bytes=700,
        values=values,
        error_feedback="none",
    )
    down, up = lengths(grid.down), lengths(grid.up)
    assert len(down) == len(up) == 12
    assert all(0.97 * 1500 <= size <= 1500 for size in down)
    assert all(0.97 * 700 <= size <= 700 for size in up)
    assert result.arrays


def test_bytes_may_be_an_integer_of_numpy():
    record = array_record(arrays())
    _, grid, _ = run_wrapped(arrays=record, upload_bytes=np.int64(700))
    up = lengths(grid.up)
    assert len(up) == 4
    assert all(size <= 700 for size in up)


def test_the_density_is_a_bound_beside_the_bytes():
    _, grid, _ = run_wrapped(
        arrays=array_record(arrays()),
        upload_density=1 / 100,
        upload_bytes=700,
        download_density="1/2",
        download_bytes=1 << 30,
        error_feedback="none",
    )
    for message in grid.up:
        if PAYLOAD in message.content.get("arrays", {}):
            payload = message.content["arrays"][PAYLOAD].data
            assert decode(payload, N).kept == N // 100
    payload = grid.down[0].content["arrays"][PAYLOAD].data
    assert decode(payload, N).kept == N // 2


def test_arrays_that_travel_whole_are_exact_beside_the_payload():
    seen = []

    def train(received, client, current):
        seen.append(received)
        return step(received, client, current)

    run_wrapped(
        client_app(train), arrays=array_record(arrays()), download_bytes=900, **MASKS
    )
    for received in seen:
        np.testing.assert_array_equal(received["bias"], arrays()["bias"])
        assert 0 < np.count_nonzero(received["weight"]) < received["weight"].size


def test_float32_at_density_1_is_encoded_if_bytes_limit_it():
    settings = {"values": "float32", "upload_density": 1, "download_density": 1}
    _, plain, _ = run_wrapped(arrays=array_record(arrays()), **settings)
    assert not lengths(plain.down) + lengths(plain.up)
    _, grid, _ = run_wrapped(
        arrays=array_record(arrays()), **settings, upload_bytes=2000
    )
    assert not lengths(grid.down)
    assert all(0.97 * 2000 <= size <= 2000 for size in lengths(grid.up))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"upload_bytes": 20}, r"upload-bytes must be >= \d+ for this adapter, got 20"),
        ({"download_bytes": 20}, r"download-bytes must be >= \d+ .*, got 20"),
    ],
)
def test_too_few_bytes_are_an_error_before_any_message(given, reason):
    grid = RecordingGrid(client_app(), 4)
    with pytest.raises(ValueError, match=reason):
        SparseTransport(FedAvg(), **given).start(grid, array_record(arrays()), 1)
    assert not grid.down


@pytest.mark.parametrize("bad", [-1, 1.5, "700", True])
def test_bytes_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match="upload_bytes must be an integer >= 0, got"):
        SparseTransport(FedAvg(), upload_bytes=bad)


def test_the_log_has_the_bytes(logged):
    SparseTransport(FedAvg(), upload_bytes=700).summary()
    assert "Density: download (0.5) | upload (1)" in logged()
    assert "Most bytes of a payload: download (any) | upload (700)" in logged()


class UnequalGrid(RecordingGrid):
    """Node 1 limits what it sends, node 2 what it receives."""

    def __init__(self, app, own):
        LocalGrid.__init__(self, app, len(own), node_configs=own)
        self.down, self.up = [], []


def test_devices_keep_to_their_own_bytes():
    own = [{"upload-bytes": 300}, {"download-bytes": 500}, {"upload-bytes": 20}, {}]
    grid = UnequalGrid(client_app(), own)
    inner = NotingFedAvg(fraction_evaluate=0)
    transport = SparseTransport(inner, error_feedback="none")
    result = transport.start(grid, array_record(arrays()), 1)
    outcomes = dict(inner.outcomes)
    assert not outcomes[1]
    assert not outcomes[4]
    assert "this device's download-bytes, got" in outcomes[2]
    assert "upload-bytes must be >= " in outcomes[3]
    replies = {m.metadata.src_node_id: m for m in grid.up if m.has_content()}
    (size,) = lengths([replies[1]])
    assert 0.97 * 300 <= size <= 300
    assert lengths([replies[4]])[0] > 300
    assert arrays_of(result.arrays).keys() == arrays().keys()

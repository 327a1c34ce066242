"""What the app and the inner strategy see of the arrays, value by value."""

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.transport.parcel import DOWNLOAD, UPLOAD, is_parcel
from flasc_flwr.flower.wire import PAYLOAD, array_record, arrays_of
from tests.plug_in.numpy_app import (
    MASKS,
    SPARSE,
    WHOLE,
    apart,
    client_app,
    flat,
    mixed,
    run_unwrapped,
    run_wrapped,
    step,
)


class Watching(FedAvg):
    """Keeps the content of the replies that it is given."""

    def aggregate_train(self, server_round, replies):
        self.replies = [reply.content for reply in replies]
        return super().aggregate_train(server_round, replies)


def seen_by_app(**settings):
    seen = []

    def train(arrays, client, current):
        seen.append(arrays)
        return step(arrays, client, current)

    inner = Watching()
    _, grid, result = run_wrapped(client_app(train), inner, nodes=2, **settings)
    return seen, inner, grid, result


def test_the_app_sees_its_arrays_masked_in_their_own_order_and_dtypes():
    seen, _, _, _ = seen_by_app(download_density=1 / 4, values="float32", **MASKS)
    for arrays in seen:
        assert list(arrays) == list(mixed())
        for name, array in mixed().items():
            assert arrays[name].dtype == array.dtype
            assert arrays[name].shape == array.shape
        for name in WHOLE:
            np.testing.assert_array_equal(arrays[name], mixed()[name])
        expected = top_k(flat(mixed()), 1 / 4).densify()
        np.testing.assert_array_equal(flat(arrays), expected)


def test_the_inner_strategy_sees_its_own_arrays_plus_the_top_k_of_the_update():
    """Entries masked in the download keep the strategy's values."""
    seen, inner, _, _ = seen_by_app(
        download_density=1 / 4, upload_density=1 / 5, values="float32", **MASKS
    )
    for received, content in zip(seen, inner.replies, strict=True):
        client = int(content["metrics"]["loss"])
        trained = step(received, client, 1)
        update = top_k(flat(trained) - flat(received), 1 / 5).densify()
        arrays = arrays_of(content["arrays"])
        assert list(arrays) == list(mixed())
        assert {n: a.dtype for n, a in arrays.items()} == {
            n: a.dtype for n, a in mixed().items()
        }
        moved = flat(arrays)
        np.testing.assert_allclose(moved, flat(mixed()) + update, rtol=1e-3, atol=1e-4)
        assert np.all(moved[update == 0] == flat(mixed())[update == 0])
        for name in WHOLE:
            np.testing.assert_array_equal(arrays[name], trained[name])


@pytest.mark.parametrize("values", ["float32", "bfloat16", "int8"])
def test_the_update_is_relative_to_the_rounded_download(values):
    """A client that does not train sends a zero update, whatever the rounding."""
    app = client_app(lambda arrays, client, current: arrays)
    settings = {"download_density": 1 / 3, "upload_density": 1, "values": values}
    _, _, result = run_wrapped(app, arrays=array_record(mixed()), **settings)
    for name in SPARSE:
        # Flower's own mean of equal arrays rounds a little.
        mean = result.arrays[name].numpy()
        np.testing.assert_allclose(
            mean, mixed()[name], rtol=2e-3 * (name == "half") + 1e-6
        )


def test_a_lossless_download_arrives_unencoded():
    seen, _, grid, _ = seen_by_app(
        download_density=1, upload_density=1 / 8, values="float32"
    )
    for name, array in mixed().items():
        np.testing.assert_array_equal(seen[0][name], array)
    assert not any(is_parcel(m.content["arrays"], DOWNLOAD) for m in grid.down)
    replies = [m for m in grid.up if "arrays" in m.content]
    assert replies
    assert all(is_parcel(m.content["arrays"], UPLOAD) for m in replies)


def test_a_lossless_upload_is_relative_to_the_masked_download():
    seen, inner, _, _ = seen_by_app(
        download_density=1 / 4, upload_density=1, values="float32", **MASKS
    )
    for received, content in zip(seen, inner.replies, strict=True):
        client = int(content["metrics"]["loss"])
        trained = step(received, client, 1)
        for name, array in arrays_of(content["arrays"]).items():
            expected = trained[name]
            if name in SPARSE:
                change = trained[name] - received[name]
                expected = (mixed()[name] + change).astype(array.dtype)
            np.testing.assert_allclose(array, expected, rtol=2e-3, atol=1e-6)


def test_a_float64_update_far_below_float32_arrives():
    base = ArrayRecord({"w": array_record({"w": np.ones((4, 4))})["w"]})
    app = client_app(lambda arrays, *_: {"w": arrays["w"] + 1e-12})
    settings = {"download_density": 1, "upload_density": 1 / 2, "values": "float32"}
    _, _, result = run_wrapped(app, arrays=base, **settings)
    moved = result.arrays["w"].numpy() - 1
    assert moved.dtype == np.float64
    assert np.count_nonzero(moved) == 8
    np.testing.assert_allclose(moved[moved > 0], 1e-12, rtol=1e-3)


def test_integers_travel_whole_and_are_averaged_as_without_the_wrapper():
    _, grid, result = run_wrapped(rounds=3)
    plain = run_unwrapped(rounds=3)
    for name in ("counter", "mask"):
        expected = plain.arrays[name]
        assert result.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(result.arrays[name].numpy(), expected.numpy())
    sent = grid.down[0].content["arrays"]
    assert sorted(apart(sent)) == [
        "0/counter",
        "2/bias",
        "4/mask",
        "6/variance",
        PAYLOAD,
    ]

"""What a large adapter costs: nothing is kept that is as large and not needed."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.codec import encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.device_update import Received
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, views_of

SIDE = 1 << 14
NAMES = ("q_proj.lora_A.weight", "q_proj.lora_B.weight")


def a_download(dtype):
    shapes = ((4, SIDE), (SIDE, 4))
    layout = Layout.of(
        {n: np.zeros(s, dtype) for n, s in zip(NAMES, shapes, strict=True)}
    )
    vector = np.random.default_rng(0).standard_normal(layout.size, np.float32)
    payload = encode(top_k(vector, 0.5), "float32", layout=layout, carry_layout=True)
    return Received.of(payload, Instructions(density=0.5))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_update_is_relative_to_what_the_app_received(dtype):
    download = a_download(dtype)
    start = download.start
    kept, record = download.handed_over()

    trained = {name: array + 1 for name, array in views_of(record).items()}
    # An app may do what it likes with its record.
    for name in list(record):
        del record[name]

    expected = download.layout.flatten(trained) - start
    np.testing.assert_array_equal(kept.update(trained), expected)


def test_while_an_app_trains_there_is_one_copy_of_what_it_received():
    tracemalloc.start()
    kept, record = a_download("float32").handed_over()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 1.5 * 4 * kept.layout.size
    assert sum(len(array.data) for array in record.values()) > 4 * kept.layout.size


def peak_of_a_round(clients, *mods, echo=False):
    """Return the most bytes that are held in a round, as multiples of N."""
    size = 1 << 18
    rng = np.random.default_rng(0)
    moves = rng.standard_normal((clients, size), np.float32)

    def train(message, context):
        if echo:
            message.content["metrics"] = MetricRecord({"num-examples": 1})
            return Message(message.content, reply_to=message)
        start = views_of(message.content["arrays"])["w"]
        arrays = array_record({"w": start + moves[context.node_id - 1]})
        content = RecordDict({"arrays": arrays})
        content["metrics"] = MetricRecord({"num-examples": 1})
        return Message(content, reply_to=message)

    app = ClientApp(mods=[*mods, flasc_mod])
    app.train()(train)
    strategy = Flasc(
        download_density=1.0,
        upload_density=0.25,
        fraction_train=1.0,
        min_available_nodes=clients,
        min_train_nodes=clients,
        server_optimizer=Sgd(),
    )
    initial = array_record({"w": np.ones(size, np.float32)})
    tracemalloc.start()
    strategy.start(LocalGrid(app, clients), initial, num_rounds=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert strategy.state.history[-1]["replies"] == clients
    return peak / size


def test_a_mod_around_sees_the_payload_again_when_the_app_is_done():
    seen = []

    def around(message, context, call_next):
        before = dict(message.content.get("arrays", {}))
        reply = call_next(message, context)
        if before:
            seen.append((before, dict(message.content["arrays"])))
        return reply

    peak_of_a_round(1, around)
    ((before, after),) = [pair for pair in seen if pair[0]]
    assert list(before) == ["payload"] and after == before


def test_an_app_may_reply_with_the_content_it_received():
    assert peak_of_a_round(1, echo=True) > 0


def test_no_update_of_a_small_cohort_waits_decoded_for_a_median():
    peak_of_a_round(1)  # what is imported does not count
    alone = peak_of_a_round(1)
    # A payload takes less than one byte for each of N; decoded it would take three.
    assert peak_of_a_round(4) - alone < 3 * 2


def test_entries_that_may_not_change_are_zero_in_the_update():
    download = a_download("float32")
    frozen = np.zeros(download.layout.size, bool)
    kept = Received(download.layout, download.start, entries=frozen)
    ones = {n: a + 1 for n, a in download.layout.unflatten(download.start).items()}
    assert not kept.update(ones).any()

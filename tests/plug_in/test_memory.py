"""Memory of a server with SparseTransport, in each phase of a round.

``pytest -s`` prints the peaks. They are multiples of 4 N bytes, the model in float32,
and count what is kept since earlier phases: from the second round on, also the model
that was aggregated.
"""

import tracemalloc

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import SparseTransport
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.transport import parallel_map
from flasc_flwr.flower.wire import array_record
from tests.plug_in.numpy_app import client_app

SHAPES = {name: (200, 500) for name in "abcdefghij"}
SIZE = sum(rows * columns for rows, columns in SHAPES.values())
ROUNDS = 2


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(shape, np.float32) for n, shape in SHAPES.items()}


def train(received, client, current):
    moved = arrays([client, current])
    return {n: array + np.float32(0.1) * moved[n] for n, array in received.items()}


def peaks(**settings):
    """Return the peaks of sending and of aggregating, by round."""
    transport = SparseTransport(FedAvg(), upload_density=1 / 16, **settings)
    grid, model = LocalGrid(client_app(train), 2), array_record(arrays(0))
    sending, aggregating = [], []
    clients = 0  # bytes that the clients hold
    tracemalloc.start()
    for current in range(1, ROUNDS + 1):
        tracemalloc.reset_peak()
        config = ConfigRecord({"server-round": current})
        messages = transport.configure_train(current, model, config, grid)
        before, peak = tracemalloc.get_traced_memory()
        sending.append((peak - clients) / (4 * SIZE))
        replies = list(grid.send_and_receive(messages))
        clients += tracemalloc.get_traced_memory()[0] - before
        tracemalloc.reset_peak()
        model, _ = transport.aggregate_train(current, replies)
        peak = tracemalloc.get_traced_memory()[1]
        aggregating.append((peak - clients) / (4 * SIZE))
    tracemalloc.stop()
    return sending, aggregating


@pytest.mark.parametrize(
    ("settings", "sending", "aggregating"),
    [
        # A reference and the payloads to it, beside what the next ones need.
        ({}, [10.2, 7.0], [4.1, 4.8]),
        # A download of every entry.
        ({"error_feedback": "up"}, [8.05, 9.35], [2.7, 3.7]),
        # A download of few entries.
        (
            {"error_feedback": "none", "download_density": 1 / 16},
            [2.4, 3.2],
            [2.4, 3.4],
        ),
    ],
    ids=["differences", "whole downloads", "masked downloads"],
)
def test_a_round_takes_a_few_copies_of_the_model(
    settings, sending, aggregating, monkeypatch
):
    monkeypatch.setattr(parallel_map, "_processors", lambda: 2)
    most, measured = [sending, aggregating], peaks(**settings)
    print("sending and aggregating, by round:", np.round(measured, 2).tolist())
    assert np.less(measured, most).all(), measured

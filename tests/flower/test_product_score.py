"""``score = "product"`` through the strategy, where a download is a difference."""

import numpy as np

from flasc_flwr import Flasc
from flasc_flwr.core.codec import decode
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.flower.wire import array_record, payload_of
from tests.flower.apps import RecordingGrid, adapter, client_app

DENSITY, RANK = 0.3, 2


def test_the_norms_are_those_of_the_adapter_not_of_the_difference():
    """For a client of a lower rank: its own components of B and A."""
    method = compose("flasc", score="product", init="shared-seed")
    start = array_record(adapter())
    own = [{"lora-rank": RANK}] * 3
    settings = {"values": "float32", "fraction_train": 1.0, "server_optimizer": Sgd()}
    settings |= {"download_density": DENSITY, "upload_density": 1.0}
    first = Flasc(method=method, **settings)
    first.start(RecordingGrid(client_app(), 3, node_configs=own), start, 1)
    weights = first.state.layout.unflatten(first.state.vector)
    second = Flasc(method=method, **settings)
    grid = RecordingGrid(client_app(), 3, node_configs=own)
    second.start(grid, start, 2)
    sent = [m.content["arrays"] for m in grid.down if "arrays" in m.content][-1]

    a, b, head = adapter()
    small = {a: weights[a][:RANK], b: weights[b][:, :RANK], head: weights[head]}
    layout = Layout.of(small)
    ours = decode(payload_of(sent), size=layout.size)
    difference = layout.flatten(small) - seeded_factors(layout, 0)
    norms = {
        a: np.repeat(np.linalg.norm(small[b], axis=0), small[a].shape[1]),
        b: np.tile(np.linalg.norm(small[a], axis=1), len(small[b])),
        head: np.ones(small[head].size),
    }
    scores = np.abs(difference) * np.concatenate(list(norms.values()))
    expected = np.sort(np.argsort(-scores)[: int(layout.size * DENSITY)])
    np.testing.assert_array_equal(ours.positions, expected)

"""The server equals a plain transcription of the algorithm, and Flower's FedAvg."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import Flasc
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of
from flasc_flwr.optimizers import AdamW, Sgd
from tests.flower.apps import adapter, client_app, nudge

CLIENTS, ROUNDS = 6, 5


def mask_of(x, density):
    mask = torch.zeros_like(x)
    mask[torch.topk(x.abs(), int(len(x) * density)).indices] = 1
    return mask


def transcription(down, up, lr):
    """FLASC's training script, as plain torch on one flat vector."""
    start = adapter()
    names, shapes = list(start), [v.shape for v in start.values()]
    w = torch.cat([torch.from_numpy(v).flatten() for v in start.values()])
    w = torch.nn.Parameter(w)
    optimizer = torch.optim.AdamW([w], lr=lr)
    for current in range(1, ROUNDS + 1):
        x0 = w.detach().clone()
        if down < 1:
            x0 = x0 * mask_of(x0, down)
        g = torch.zeros_like(x0)
        for client in range(CLIENTS):
            parts = torch.split(x0, [int(np.prod(s)) for s in shapes])
            arrays = {
                name: part.reshape(shape).numpy()
                for name, part, shape in zip(names, parts, shapes, strict=True)
            }
            trained = nudge(arrays, client, current)
            x = torch.cat([torch.from_numpy(v).flatten() for v in trained.values()])
            delta = x0 - x
            if up < 1:
                delta = delta * mask_of(delta, up)
            g += delta
        w.grad = g / CLIENTS
        optimizer.step()
    return w.detach().numpy()


def flasc_vector(**settings):
    strategy = Flasc(values="float32", **settings)
    strategy.start(LocalGrid(client_app(), CLIENTS), array_record(adapter()), ROUNDS)
    return strategy.state.vector


@pytest.mark.parametrize("down", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("up", [1.0, 0.25, 0.1])
def test_five_rounds_equal_the_transcription(down, up):
    ours = flasc_vector(
        download_density=down,
        upload_density=up,
        server_optimizer=AdamW(learning_rate=0.01),
    )
    np.testing.assert_allclose(
        ours, transcription(down, up, 0.01), rtol=1e-6, atol=1e-7
    )


def test_dense_with_sgd_is_flowers_fedavg():
    ours = flasc_vector(
        method="dense",
        weighting="examples",
        server_optimizer=Sgd(learning_rate=1.0),
    )
    peer = FedAvg(fraction_evaluate=0.0).start(
        LocalGrid(client_app(mods=[]), CLIENTS), array_record(adapter()), ROUNDS
    )
    flat = np.concatenate([v.ravel() for v in arrays_of(peer.arrays).values()])
    np.testing.assert_allclose(ours, flat, rtol=1e-5, atol=1e-6)


def test_density_one_is_the_dense_method():
    settings = {"server_optimizer": AdamW(learning_rate=0.01)}
    np.testing.assert_array_equal(
        flasc_vector(method="dense", **settings),
        flasc_vector(download_density=1, upload_density=1.0, **settings),
    )

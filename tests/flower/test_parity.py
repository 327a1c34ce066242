"""The server equals a plain transcription of the algorithm, and Flower's FedAvg."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from flasc_flwr import Flasc
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.optimizers import AdamW, Sgd
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of
from tests.flower.apps import adapter, client_app, nudge

CLIENTS, ROUNDS = 6, 5


def mask_of(x, density):
    mask = torch.zeros_like(x)
    mask[torch.topk(x.abs(), int(len(x) * density)).indices] = 1
    return mask


def transcription(
    lr, down=1.0, up=1.0, down_decay=1.0, up_decay=1.0, *, server_freeze=False,
    client_freeze=False, floor=0.0,
):  # fmt: skip
    """FLASC's training script, flags and all, as plain torch on one flat vector."""
    start = adapter()
    names, shapes = list(start), [v.shape for v in start.values()]
    w = torch.cat([torch.from_numpy(v).flatten() for v in start.values()])
    w = torch.nn.Parameter(w)
    mask = torch.ones_like(w)
    optimizer = torch.optim.AdamW([w], lr=lr)
    for t in range(ROUNDS):
        d_down = max(down * down_decay**t, floor)
        d_up = up * up_decay**t
        if (d_down < 1 and not server_freeze) or (t == 1 and server_freeze):
            mask = mask_of(w.detach(), d_down)
        x0 = w.detach() * mask
        g = torch.zeros_like(x0)
        for client in range(CLIENTS):
            parts = torch.split(x0, [int(np.prod(s)) for s in shapes])
            arrays = {
                name: part.reshape(shape).numpy()
                for name, part, shape in zip(names, parts, shapes, strict=True)
            }
            trained = nudge(arrays, client, t + 1)
            x = torch.cat([torch.from_numpy(v).flatten() for v in trained.values()])
            if client_freeze:
                x = torch.where(mask.bool(), x, x0)
            delta = x0 - x
            if d_up < 1:
                delta = delta * mask_of(delta, d_up)
            g += delta
        w.grad = g / CLIENTS
        optimizer.step()
    return w.detach().numpy()


def flasc_vector(**settings):
    strategy = Flasc(**{"values": "float32", "fraction_train": 1.0} | settings)
    strategy.start(LocalGrid(client_app(), CLIENTS), array_record(adapter()), ROUNDS)
    return strategy.state.vector


def check(expected, **settings):
    ours = flasc_vector(server_optimizer=AdamW(learning_rate=0.01), **settings)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("down", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("up", [1.0, 0.25, 0.1])
def test_flasc_equals_the_transcription(down, up):
    check(transcription(0.01, down, up), download_density=down, upload_density=up)


def test_flasc_with_decay_equals_the_transcription():
    check(
        transcription(0.01, 0.5, 0.4, 0.8, 0.9),
        download_density=0.5,
        upload_density=0.4,
        decay=Decay(download=0.8, upload=0.9),
    )


def test_sparse_adapter_equals_the_transcription():
    expected = transcription(0.01, 0.25, server_freeze=True, client_freeze=True)
    check(expected, method="sparse-adapter", download_density=0.25)


def test_fedselect_equals_the_transcription():
    expected = transcription(0.01, 0.25, client_freeze=True)
    check(expected, method="fedselect", download_density=0.25)


def test_adapter_lth_equals_the_transcription():
    expected = transcription(0.01, 1.0, down_decay=0.7, client_freeze=True, floor=0.4)
    check(
        expected,
        method="adapter-lth",
        download_density=0.4,
        decay=Decay(download=0.7),
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

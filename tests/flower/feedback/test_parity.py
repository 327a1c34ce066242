"""Error feedback equals the algorithm, written down without messages."""

import numpy as np
import pytest

from flasc_flwr import Flasc
from flasc_flwr.core.codec import decode, encode
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import FedAvgM
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app, nudge

LAYOUT = Layout.of(adapter())
NODES, ROUNDS, DENSITY, MOMENTUM = 3, 5, 1 / 8, 0.7


def rounded(vector, density, values):
    """Q: what is left of a vector after selection and rounding."""
    payload = encode(top_k(vector, density), values, layout=LAYOUT)
    return decode(payload, LAYOUT.size).densify()


def plain_loop(values, both, decay):
    """Return the server vector x and the reference h, by docs/error-feedback.md."""
    x = LAYOUT.flatten(adapter())
    h, velocity = np.zeros_like(x), np.zeros_like(x)
    residuals = [np.zeros_like(x) for _ in range(NODES)]
    for t in range(1, ROUNDS + 1):
        if both:
            h = h + rounded(x - h, 1.0 if t == 1 else DENSITY, values)
        else:
            h = rounded(x, DENSITY, values)
        mean = np.zeros(len(x), np.float64)
        for k in range(NODES):
            trained = LAYOUT.flatten(nudge(LAYOUT.unflatten(h), k, t))
            if t > 1:
                residuals[k] *= decay
            owed = residuals[k] + (trained - h)
            sent = rounded(owed, DENSITY, values)
            residuals[k] = owed - sent
            mean += sent
        velocity = np.float32(MOMENTUM) * velocity + (mean / NODES).astype(np.float32)
        x = x + velocity
    return x, h


@pytest.mark.parametrize("values", ["float32", "int4", "step"])
@pytest.mark.parametrize("error_feedback", ["up", "both"])
@pytest.mark.parametrize("decay", [0.8, 0.5, 1.0])  # the first one is the default
def test_it_equals_the_plain_loop(error_feedback, values, decay):
    strategy = Flasc(
        method=compose("flasc", error_feedback=error_feedback),
        download_density=DENSITY,
        upload_density=DENSITY,
        feedback_decay=decay,
        values=values,
        server_optimizer=FedAvgM(momentum=MOMENTUM),
        fraction_train=1.0,
    )
    grid = LocalGrid(client_app(nudge), NODES)
    strategy.start(grid, array_record(adapter()), ROUNDS)
    x, h = plain_loop(values, error_feedback == "both", np.float32(decay))
    np.testing.assert_allclose(strategy.state.vector, x, atol=1e-6)
    for followed in strategy.state.fleet._streams.values():
        np.testing.assert_allclose(followed.stream.reference.vector, h, atol=1e-6)

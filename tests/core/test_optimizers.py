from dataclasses import replace

import numpy as np
import pytest
import torch

from flasc_flwr.core.finite import (
    NotFiniteError,
    require_finite,
    require_finite_product,
)
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS, AdamW, Decaying, Sgd
from flasc_flwr.core.stepping import step_chunks, step_parts

SIZE, STEPS = 50, 6


def gradients():
    rng = np.random.default_rng(2)
    scale = 10.0 ** rng.integers(-6, 1, SIZE)
    for _ in range(STEPS):
        kept = rng.random(SIZE) < 0.7
        yield (rng.standard_normal(SIZE) * scale * kept).astype(np.float32)


def start():
    return np.random.default_rng(3).standard_normal(SIZE).astype(np.float32)


def run(optimizer):
    vector, state = start(), optimizer.init(SIZE)
    for gradient in gradients():
        vector, state = optimizer.step(vector, gradient, state)
        assert vector.dtype == np.float32
    assert state.step == STEPS
    return vector


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05)),
        ("fedavgm", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05)),
    ],
)
def test_sgd_momentum_and_adamw_equal_torchs(name, peer):
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = peer([parameter])
    for gradient in gradients():
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    ours = run(SERVER_OPTIMIZERS[name](learning_rate=0.05))
    np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_optimizers_equal_algorithm_2(name):
    """Reddi et al., Algorithm 2, entry by entry in Python floats."""
    lr, tau, beta_2 = 0.05, 1e-3, 0.99
    beta_1 = 0.0 if name == "fedadagrad" else 0.9
    expected = []
    for i in range(SIZE):
        x, m, v = float(start()[i]), 0.0, tau**2
        for gradient in gradients():
            delta = -float(gradient[i])
            m = beta_1 * m + (1 - beta_1) * delta
            if name == "fedadagrad":
                v = v + delta**2
            elif name == "fedyogi":
                sign = (v > delta**2) - (v < delta**2)
                v = v - (1 - beta_2) * delta**2 * sign
            else:
                v = beta_2 * v + (1 - beta_2) * delta**2
            x = x + lr * m / (v**0.5 + tau)
        expected.append(x)
    ours = run(SERVER_OPTIMIZERS[name](learning_rate=lr))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_decaying_learning_rate_is_torchs_exponential_one(name):
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    peer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    optimizer = peer([parameter], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.7)
    for gradient in gradients():
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        schedule.step()
    inner = SERVER_OPTIMIZERS[name](learning_rate=0.05)
    ours = run(Decaying(optimizer=inner, decay=0.7))
    np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("value", [1e-46, 1e-30, 1e30, 0.0])
def test_what_float32_cannot_add_to_a_denominator_is_refused(value):
    """Below 1e-45 it was 0, and an entry without gradient became NaN."""
    with pytest.raises(ValueError, match="epsilon must be a number in"):
        AdamW(epsilon=value)
    with pytest.raises(ValueError, match="tau must be a number in"):
        replace(SERVER_OPTIMIZERS["fedadam"](learning_rate=0.1), tau=value)


@pytest.mark.parametrize("value", [1e-19, 1e19])
@pytest.mark.parametrize("name", ["adamw", "fedadam", "fedyogi", "fedadagrad"])
def test_steps_along_tiny_gradients_are_no_larger_than_usual(name, value):
    optimizer = SERVER_OPTIMIZERS[name](learning_rate=0.1)
    added = "epsilon" if name == "adamw" else "tau"
    optimizer = replace(optimizer, **{added: value})
    gradient = np.array([0, 1e-45, 1e-30, -1e-21, 1e-10, 1], np.float32)
    stepped, _ = optimizer.step(np.zeros(6, np.float32), gradient, optimizer.init(6))
    assert np.abs(stepped).max() <= 1


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(ValueError, match="server-learning-rate-decay must be"):
        Decaying(optimizer=AdamW(), decay=decay)


def test_a_step_leaves_its_inputs_alone():
    optimizer = AdamW()
    vector, gradient, state = start(), np.ones(SIZE, np.float32), optimizer.init(SIZE)
    optimizer.step(vector, gradient, state)
    np.testing.assert_array_equal(vector, start())
    assert state.step == 0
    assert not state.moments["m"].any()


def test_decay_acts_on_entries_without_gradient():
    optimizer = AdamW(learning_rate=0.1)
    ones = np.ones(3, np.float32)
    vector, _ = optimizer.step(ones, 0 * ones, optimizer.init(3))
    np.testing.assert_allclose(vector, 1 - 0.1 * 0.01, rtol=1e-6)


@pytest.mark.parametrize("name", SERVER_OPTIMIZERS)
def test_stepping_in_blocks_is_stepping_at_once(name):
    rng = np.random.default_rng(0)
    size = 3 * 2**17  # a block and a half
    optimizer = SERVER_OPTIMIZERS[name]()
    whole = blocks = rng.standard_normal(size).astype(np.float32)
    state = in_blocks = optimizer.init(size)
    for _ in range(3):
        update = rng.standard_normal(size).astype(np.float32)
        whole, state = optimizer.step(whole, -update, state)
        blocks, in_blocks = step_chunks(optimizer, blocks, update, in_blocks)
    np.testing.assert_array_equal(blocks, whole)
    assert in_blocks.step == state.step == 3
    assert in_blocks.moments.keys() == state.moments.keys()
    for moment in state.moments:
        np.testing.assert_array_equal(in_blocks.moments[moment], state.moments[moment])


ROLORA = Layout.of(
    {
        "x.lora_A.weight": np.zeros((1, 3), np.float32),
        "x.lora_B.weight": np.zeros((3, 1), np.float32),
        "head.weight": np.zeros((3, 1), np.float32),
    }
)


def rolora_turns(optimizer, turns=6):
    """Return how far each tensor moves in each turn; NaN where it does not step."""
    vector, state = np.zeros(ROLORA.size, np.float32), optimizer.init(ROLORA.size)
    ones, moves = np.ones(ROLORA.size, np.float32), []
    for turn in range(1, turns + 1):
        parts = compose("rolora").trainable_at(turn).parts(ROLORA)
        before = vector
        vector, state = step_parts(optimizer, parts, vector, ones, state)
        moved = ROLORA.unflatten(vector - before)
        moves.append({name: float(m.ravel()[0]) for name, m in moved.items()})
    return moves


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rolora_steps_head_and_factors_at_the_same_decayed_rate(name):
    decay = {"weight_decay": 0.0} if name == "adamw" else {}
    inner = SERVER_OPTIMIZERS[name](learning_rate=0.5, **decay)
    moves = rolora_turns(Decaying(optimizer=inner, decay=0.8))
    for turn, moved in enumerate(moves):
        # Of equal gradients bias-corrected AdamW makes equal steps, as plain SGD does:
        # each part's bias correction counts its own steps.
        expected = {
            "x.lora_B.weight": turn % 2 == 0,
            "x.lora_A.weight": turn % 2 == 1,
            "head.weight": True,
        }
        for tensor, steps in expected.items():
            rate = 0.5 * 0.8**turn if steps else 0.0
            assert moved[tensor] == pytest.approx(rate, rel=1e-4, abs=1e-9), tensor


def test_a_decay_of_1_is_no_decay_for_parts():
    moves = rolora_turns(Decaying(optimizer=Sgd(learning_rate=0.5), decay=1.0))
    assert moves == rolora_turns(Sgd(learning_rate=0.5))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**127, -3e38])
def test_what_is_not_finite_is_refused(bad):
    good = np.full(3 * 2**17, 1e38, np.float32)
    require_finite("they", good, good.astype(np.float64), np.zeros((0, 4)))
    good[-1] = bad
    with pytest.raises(NotFiniteError, match="^they are not finite$"):
        require_finite("they", good[:5], good)


def test_factors_are_refused_whose_product_is_not_finite():
    b, a = np.full((4, 2), 1e15, np.float32), np.full((2, 3), 1e15, np.float32)
    require_finite_product("they", b, a)
    with pytest.raises(NotFiniteError):
        require_finite_product("they", np.float32(1e10) * b, np.float32(1e10) * a)
    with pytest.raises(NotFiniteError):
        require_finite_product("they", b, a * np.float32("nan"))

"""Methods through the strategy, against plain transcriptions of what they do."""

import numpy as np
import pytest
import torch

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.codec import decode
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.merged import product_of
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import AdamW, Sgd
from flasc_flwr.flower.wire import (
    MERGED,
    array_record,
    arrays_of,
    payload_of,
)
from tests.flower.apps import RecordingGrid, adapter, client_app, nudge

A, B, HEAD = adapter()
LAYOUT = Layout.of(adapter())
CLIENTS = 6


def run(method, rounds=3, app=None, node_configs=None, **settings):
    strategy = Flasc(
        method=method,
        **{"values": "float32", "server_optimizer": Sgd(), "fraction_train": 1.0}
        | settings,
    )
    grid = RecordingGrid(app or client_app(), CLIENTS, node_configs=node_configs)
    strategy.start(grid, array_record(adapter()), rounds)
    return strategy, grid


def arrays(strategy):
    return strategy.state.layout.unflatten(strategy.state.vector)


def seeded(seed=0):
    start = adapter()
    start[A] = LAYOUT.unflatten(seeded_factors(LAYOUT, seed))[A]
    return start


def mean(dictionaries):
    return {
        name: np.mean([d[name] for d in dictionaries], axis=0, dtype=np.float64)
        for name in dictionaries[0]
    }


def assert_close(ours, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(
            ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_ffa_lora_keeps_a_and_never_sends_it():
    strategy, grid = run("ffa-lora", server_optimizer=AdamW(learning_rate=0.01))
    w = seeded()
    parameters = {n: torch.nn.Parameter(torch.from_numpy(w[n])) for n in (B, HEAD)}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01)
    for current in range(1, 4):
        now = w | {n: p.detach().numpy().copy() for n, p in parameters.items()}
        trained = mean([nudge(now, i, current) for i in range(CLIENTS)])
        for name, parameter in parameters.items():
            gradient = torch.from_numpy(now[name] - trained[name])
            parameter.grad = gradient.to(torch.float32)
        optimizer.step()
    np.testing.assert_array_equal(arrays(strategy)[A], w[A])
    assert_close(arrays(strategy), {n: p.detach() for n, p in parameters.items()})
    for messages in (grid.down, grid.up):
        for message in messages:
            if "arrays" in message.content.array_records:
                payload = payload_of(message.content["arrays"])
                sent = decode(payload, size=LAYOUT.size).densify()
                assert not LAYOUT.unflatten(sent)[A].any()


def test_rolora_alternates_b_first_with_moments_of_its_own_for_each_factor():
    strategy, grid = run("rolora", 5, server_optimizer=AdamW(learning_rate=0.01))
    start = adapter()
    parameters = {n: torch.nn.Parameter(torch.from_numpy(v)) for n, v in start.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01)
    for current in range(1, 6):
        now = {n: p.detach().numpy().copy() for n, p in parameters.items()}
        trained = mean([nudge(now, i, current) for i in range(CLIENTS)])
        frozen = A if current % 2 else B
        for name, parameter in parameters.items():
            gradient = torch.from_numpy(now[name] - trained[name]).to(torch.float32)
            parameter.grad = None if name == frozen else gradient
        optimizer.step()
    assert_close(arrays(strategy), {n: p.detach() for n, p in parameters.items()})
    uploads = [m for m in grid.up if "arrays" in m.content.array_records]
    for turn, messages in enumerate(np.reshape(uploads, (5, CLIENTS))):
        for message in messages:
            payload = payload_of(message.content["arrays"])
            sent = LAYOUT.unflatten(decode(payload, size=LAYOUT.size).densify())
            assert sent[B].any() == (turn % 2 == 0)
            assert sent[A].any() == (turn % 2 == 1)


def cut(arrays, rank):
    """Return the first components of an adapter."""
    if not rank:
        return arrays
    return arrays | {A: arrays[A][:rank], B: arrays[B][:, :rank]}


def pad(arrays, rank_of=4):
    missing = rank_of - arrays[A].shape[0]
    return arrays | {
        A: np.pad(arrays[A], ((0, missing), (0, 0))),
        B: np.pad(arrays[B], ((0, 0), (0, missing))),
    }


def test_rank_tiers_train_smaller_adapters_and_average_padded_updates():
    seen = []

    def trainer(received, client, current):
        seen.append((client, received[A].shape, received[B].shape))
        return nudge(received, client, current)

    strategy, _ = run("hetlora-tiers", 3, client_app(trainer))
    ranks = [1, 4, 4]  # tiers 1, 4 and whole, of a server's rank of 4
    w = adapter()
    for current in range(1, 4):
        updates = []
        for client in range(CLIENTS):
            start = cut(w, ranks[client % 3])
            trained = nudge(start, client, current)
            updates.append(pad({n: trained[n] - start[n] for n in start}))
        change = mean(updates)
        w = {n: (w[n] + change[n]).astype(np.float32) for n in w}
    assert_close(arrays(strategy), w)
    assert set(seen) == {(i, (ranks[i % 3], 11), (7, ranks[i % 3])) for i in range(6)}
    assert strategy.state.history[1]["ranks"] == {"1": 2, "4": 4}


@pytest.mark.parametrize("name", ["flasc", "flasc-tiers", "hetlora-tiers"])
def test_what_is_exported_is_what_the_first_metrics_are_of(name):
    """That is what the highest tier receives."""
    evaluated = {}

    def evaluate(current, record):
        evaluated.setdefault(current, arrays_of(record))

    strategy = Flasc(method=name, fraction_train=1.0)
    grid = RecordingGrid(client_app(), CLIENTS)
    strategy.start(grid, array_record(adapter()), 3, evaluate_fn=evaluate)
    exported = arrays_of(strategy.server.received())
    for key, array in evaluated[3].items():
        np.testing.assert_array_equal(exported[key], array)


def largest(vector, density):
    keep = np.argsort(-np.abs(vector), kind="stable")[: int(len(vector) * density)]
    return np.where(np.isin(np.arange(len(vector)), keep), vector, 0)


@pytest.mark.parametrize("scale", ["common", "own"])
def test_a_budget_may_have_a_rank_and_densities(scale):
    """Download: the top-k of the truncated adapter; upload: the top-k of its update."""
    own = [{"lora-rank": 1 + i % 3, "upload-density": 0.3} for i in range(CLIENTS)]
    method = compose("flasc", rank_scale=scale)
    strategy, _ = run(method, 3, node_configs=own, download_density=0.5)
    w = adapter()
    for current in range(1, 4):
        updates = []
        for client in range(CLIENTS):
            rank = 1 + client % 3
            s = rank / 4 if scale == "own" else 1.0
            start = cut(w, rank)
            start = start | {B: start[B] * np.float32(s)}
            layout = Layout.of(start)
            x0 = largest(layout.flatten(start), 0.5)
            trained = nudge(layout.unflatten(x0), client, current)
            delta = layout.unflatten(largest(layout.flatten(trained) - x0, 0.3))
            updates.append(pad(delta | {B: delta[B] / np.float32(s)}))
        change = mean(updates)
        w = {n: (w[n] + change[n]).astype(np.float32) for n in w}
    assert_close(arrays(strategy), w)


def test_the_best_by_validation_are_given_the_whole_rank():
    def loss_of(trained):
        # Clients are told apart by what only they can have trained.
        heads = {
            i: nudge(cut(adapter(), 2), i, 1)["classifier.weight"] for i in range(6)
        }
        (client,) = [i for i, h in heads.items() if np.allclose(h, trained[HEAD])]
        return {0: 0.9, 1: float("nan"), 2: 0.2, 3: 0.5, 4: 0.3, 5: 0.8}[client]

    validation = ValidationRanks(loss_of=loss_of, low_rank=2, fraction=1 / 3)
    strategy, _ = run("replication", 3, validation=validation, fraction_train=0.5)
    assert strategy.state.ranks == {"2": 4, "4": 4}
    history = strategy.state.history
    # Everyone trains at first, at the low rank.
    assert history[1]["ranks"] == {"2": 6}
    assert history[2]["replies"] == history[3]["replies"] == 3
    ranks = [history[i]["ranks"].get("4", 0) for i in (2, 3)]
    assert sum(ranks) > 0
    # Nobody had the last components in the first turn.
    assert strategy.state.history[1]["dead_modules"] == 0


def test_a_method_that_needs_a_validation_says_so():
    with pytest.raises(ValueError, match="'replication' .* needs validation="):
        Flasc(method="replication")


def test_flora_sends_the_stack_to_be_merged():
    merged = []

    def spy(message, context, call_next):
        if MERGED in message.content:
            merged.append(arrays_of(message.content[MERGED]))
        return call_next(message, context)

    own = [{"lora-rank": 1}] * CLIENTS
    strategy, _ = run(
        compose("flora", tiers="none"),
        2,
        client_app(mods=[flasc_mod, spy]),
        own,
    )
    start = cut(seeded(), 1)
    expected = mean(
        [{"BA": t[B] @ t[A]} for t in (nudge(start, i, 1) for i in range(CLIENTS))]
    )["BA"]
    assert len(merged) == CLIENTS  # nothing was merged before the first round
    for received in merged:
        np.testing.assert_allclose(
            product_of(received, "layer"), expected, rtol=1e-5, atol=1e-6
        )
    assert not arrays(strategy)[B].any()


def test_a_shared_seed_leaves_nothing_but_the_head_to_send_at_first():
    seen = []

    def trainer(received, client, current):
        seen.append(received)
        return nudge(received, client, current)

    method = compose("flasc", init="shared-seed")
    strategy, grid = run(method, 1, client_app(trainer), download_density=0.25, seed=3)
    for received in seen:
        np.testing.assert_array_equal(received[A], seeded(3)[A])
    (payload, *_) = [
        payload_of(m.content["arrays"])
        for m in grid.down
        if "arrays" in m.content.array_records
    ]
    sent = LAYOUT.unflatten(decode(payload, size=LAYOUT.size).densify())
    assert sent[HEAD].any() and not sent[A].any() and not sent[B].any()
    # The update is taken against what was received, A's initial values and all.
    change = mean(
        [
            {"d": largest(LAYOUT.flatten(nudge(r, i, 1)) - LAYOUT.flatten(r), 0.25)}
            for i, r in enumerate(seen)
        ]
    )["d"]
    np.testing.assert_allclose(
        strategy.state.vector, LAYOUT.flatten(seeded(3)) + change, rtol=1e-5, atol=1e-6
    )


def test_dead_modules_are_counted():
    def narrow(seed=0):
        """Two modules, of which one has the smaller initial values."""
        rng = np.random.default_rng(seed)
        return {
            "wide.lora_A.weight": 0.1 * rng.standard_normal((4, 11)),
            "wide.lora_B.weight": np.zeros((7, 4)),
            "narrow.lora_A.weight": 10 + rng.standard_normal((4, 5)),
            "narrow.lora_B.weight": np.zeros((3, 4)),
        }

    start = {n: v.astype(np.float32) for n, v in narrow().items()}
    dead = {}
    for quota in ("none", "tensor"):
        strategy = Flasc(method=compose("flasc", quota=quota), download_density=1 / 8)
        strategy.start(RecordingGrid(client_app(), 2), array_record(start), 1)
        dead[quota] = strategy.state.history[1]["dead_modules"]
    assert dead == {"none": 1, "tensor": 0}


def test_parts_that_do_not_fit_together_are_told():
    with pytest.raises(
        ValueError, match="server-optimizer must be 'sgd' .*, got 'adamw'"
    ):
        compose("flasc", aggregation="svd", server_optimizer="adamw")
    with pytest.raises(ValueError, match="exact-residual must be False"):
        compose("flora", exact_residual=True)
    with pytest.raises(ValueError, match="aggregation must be one of"):
        compose("flasc", aggregation="median")
    with pytest.raises(ValueError, match="method must be one of"):
        compose("magic")
    with pytest.raises(ValueError, match=r"must be Sgd\(learning_rate=1.0\)"):
        Flasc(method="flexlora", server_optimizer=AdamW())
    assert compose("flasc", aggregation="svd").server_optimizer == "sgd"

"""Private runs at their edges: fleets that grow, budgets, failures, exact sums."""

import logging

import numpy as np
import pytest

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.core.aggregation import Aggregate, Contribution, aggregator
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.served import MOST_SERVED
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.sparsity import top_k
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.participant import Participant
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.privacy import private as private_module
from flasc_flwr.flower.privacy.accounting import noise_for, release_of, spent
from flasc_flwr.flower.privacy.local_dp import local_dp
from flasc_flwr.flower.privacy.private import Private
from flasc_flwr.flower.privacy.requirements import unaccounted
from flasc_flwr.flower.state.checkpoint import Checkpoint
from flasc_flwr.flower.wire import CONTROL, array_record, payload_of
from tests.flower.apps import RecordingGrid, adapter, client_app
from tests.flower.fleet import Fleet
from tests.flower.test_private import (
    CLIENTS,
    epsilons,
    leap,
    privacy,
    run,
    spying,
    strategy_of,
)

MANY = MOST_SERVED + 4


@pytest.fixture
def said(caplog, monkeypatch):
    """Return what the log says."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def sent_to_all(densities):
    """Return what each client of one private round is sent, by its number."""
    own = [{"download-density": d, "upload-density": d} for d in densities]
    grid = RecordingGrid(client_app(), len(own), node_configs=own)
    run(
        privacy(population=len(own)),
        1,
        grid=grid,
        clients=len(own),
        fraction_train=1.0,
    )
    return {
        message.metadata.dst_node_id: (
            payload_of(message.content["arrays"]),
            dict(message.content[CONTROL]),
        )
        for message in grid.down
        if "arrays" in message.content
    }


def test_what_a_client_is_sent_does_not_depend_on_who_else_takes_part():
    """With more than 16 budgets, some were lowered by who had been drawn."""
    densities = [(100 + 10 * i) / 4096 for i in range(MANY)]
    before = sent_to_all(densities)
    # The neighbour: one client has the budget of the next one.
    after = sent_to_all([densities[1], *densities[1:]])
    assert len(before) == MANY
    assert before.pop(1) != after.pop(1)
    assert before == after
    # Each is served what it asked for.
    for node, (_, control) in before.items():
        assert control["upload-density"] == densities[node - 1]


def test_a_fixed_support_does_not_depend_on_who_was_drawn_before():
    """It was selected when a client of its budget was first drawn."""
    budget = Budget(download_density=0.1, rank=2)
    supports = []
    for drawn_in in ({2, 5}, {5}):
        server = Flasc(method="sparse-adapter", server_optimizer=Sgd()).server
        server.begin(array_record(adapter()))
        for turn in range(1, 6):
            if turn in drawn_in:
                supports.append(server.encode(budget).support)
            rng = np.random.default_rng(turn)
            step = rng.standard_normal(server.state.layout.size).astype(np.float32)
            server.step(Aggregate(step))
            now = Checkpoint(turn, {}, server.state)
            server.resume(Checkpoint.from_bytes(now.to_bytes()).state)
    earlier, _, later = supports
    np.testing.assert_array_equal(earlier, later)


@pytest.mark.parametrize(("fraction", "rounds"), [(0.5, 2), (1.0, 3)])
def test_a_fleet_that_grows_beyond_its_population_spends_no_more(
    fraction, rounds, said
):
    """A cohort of more than dp-population clients ended the run."""
    own = privacy(noise_multiplier=4.0)
    cohort = int(fraction * CLIENTS)
    whole = spent(own, {release_of(own, cohort): rounds})
    fleet = Fleet(3 * CLIENTS)
    fleet.away = set(range(CLIENTS + 1, 3 * CLIENTS + 1))
    strategy = run(
        own,
        rounds,
        grid=fleet,
        fraction_train=fraction,
        on_round=lambda row: fleet.away.clear(),
    )
    rows = strategy.state.history[1:]
    assert [row["replies"] for row in rows] == [cohort] * rounds
    assert rows[-1]["epsilon"] == pytest.approx(whole)
    # Nobody is left out: any of them can be drawn.
    sums = strategy.state.traffic.rounds[rounds].values()
    assert any(int(sent.client) >= CLIENTS for sent in sums if sent.vectors)
    assert sum("more than dp-population = 12" in line for line in said()) == 1


def test_larger_poisson_samples_spend_no_more_and_the_log_says_what_grows(said):
    whole = epsilons(run(privacy(sampling="poisson"), 2))
    strategy = run(privacy(sampling="poisson"), 2, clients=3 * CLIENTS)
    assert epsilons(strategy) == whole
    (line,) = [line for line in said() if "dp-population" in line]
    assert "still divided by 3, so steps are 3 times as large" in line


def test_a_cohort_of_more_than_the_population_is_refused_before_the_run():
    with pytest.raises(ValueError, match="dp-population must be >= .* = 5.*, got 4"):
        strategy_of(privacy(population=4), min_train_nodes=5)
    # A Poisson sample has no smallest size.
    strategy_of(privacy(population=4, sampling="poisson"), min_train_nodes=5)
    with pytest.raises(ValueError, match="fraction-train must be above 0"):
        strategy_of(privacy(), fraction_train=0.0)


def failing(arrays, client, current):
    """Train, and in the second round to something that is not a number."""
    return {
        n: np.full_like(a, np.nan if current == 2 else 1) for n, a in arrays.items()
    }


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_a_round_whose_clients_all_fail_is_a_release_like_any_other(sampling):
    """A skipped round revealed, without noise, that they had failed."""
    strategy = strategy_of(privacy(sampling=sampling), fraction_train=1.0)
    steps = []
    strategy.server.step = spying(strategy.server.step, steps)
    grid = Fleet(CLIENTS, app=client_app(failing))
    strategy.start(grid, array_record(adapter()), 3)
    rows = strategy.state.history[1:]
    assert [row["replies"] for row in rows] == [CLIENTS, 0, CLIENTS]
    assert not any(row["skipped"] for row in rows)
    assert len(set(epsilons(strategy))) == 3
    # N(0, (z C)^2) / cohort, and nothing else.
    assert steps[1].std() == pytest.approx(1.1 * 0.5 / CLIENTS, rel=0.25)


def test_a_run_that_only_clips_skips_a_round_without_updates():
    strategy = strategy_of(privacy(noise_multiplier=0.0), fraction_train=1.0)
    grid = Fleet(CLIENTS, app=client_app(failing))
    strategy.start(grid, array_record(adapter()), 3)
    assert [row["skipped"] for row in strategy.state.history[1:]] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("delta", "warns"), [(0.5, True), (None, False)])
def test_a_delta_that_promises_little_is_named(delta, warns, said):
    """With 0.5, epsilon was 0 for hardly any noise, and nothing said why."""
    Private(privacy(delta=delta, sampling="poisson"), {})
    assert any("dp-delta = 0.5 should be below" in line for line in said()) == warns


@pytest.mark.parametrize(
    ("stop", "fewest", "named"),
    [
        (Stop(megabytes=1.0), 1, ["stop-megabytes"]),
        (Stop(client_megabytes=1.0), 1, ["stop-client-megabytes"]),
        (Stop(megabytes=1.0), 2, ["stop-megabytes", "min-replies = 2"]),
        # Measured on the server's own rows.
        (Stop(accuracy=0.5, patience=2), 1, []),
    ],
)
def test_decisions_without_noise_are_named(stop, fewest, named):
    found = unaccounted(privacy(), stop, min_replies=fewest)
    assert [line[: len(name)] for line, name in zip(found, named, strict=True)] == named
    assert not unaccounted(privacy(noise_multiplier=0.0), stop, min_replies=fewest)


def test_the_log_names_them_once(said):
    stop = Stop(megabytes=1e6)
    run(privacy(sampling="poisson"), 2, stop=stop)
    (line,) = [line for line in said() if "no noise: " in line]
    assert "Not counted by epsilon, as it has no noise: stop-megabytes ends" in line
    run(None, 1, stop=stop, guard=Guard(min_replies=2))
    assert sum("no noise: " in line for line in said()) == 1


def test_noise_is_added_to_the_exact_sum(monkeypatch):
    """Rounded to float32 first, it differs by more than one update's norm allows."""
    layout = Layout.of(adapter())
    sums = []
    released = private_module.released

    def spy(total, **settings):
        sums.append(total.copy())
        return released(total, **settings)

    monkeypatch.setattr(private_module, "released", spy)
    private = Private(privacy(clip_norm=100.0, sampling="poisson"), {})
    online = [Participant(node_id=i, name=str(i), budget=None) for i in range(CLIENTS)]
    private.draw(Sampling(fraction_train=0.25, min_train_nodes=1), online, 1)
    added = aggregator("zero-padded-updates")(layout, np.zeros(layout.size, np.float32))
    rng = np.random.default_rng(0)
    exact = np.zeros(layout.size)
    for _ in range(3):
        update = rng.standard_normal(layout.size).astype(np.float32)
        exact += update
        added.add(Contribution(private.clip(top_k(update, 1.0)), 4))
    private.release(added)
    np.testing.assert_array_equal(sums[0], exact)


UNEQUAL = [
    {"lora-rank": 1, "upload-density": 1.0},
    {"lora-rank": 2, "download-density": 0.5, "upload-bytes": 200},
    {"upload-density": 0.1},
    {},
]


@pytest.mark.parametrize(
    "settings",
    [
        {"values": "int4"},
        {"values": "step", "download_bytes": 300},
        {"method": "flasc-shared-mask"},
        {"method": "fedselect"},
        {"method": compose("hetlora-tiers", rank_scale="own")},
        {"method": compose("segments", aggregation="zero-padded-updates")},
        {"method": compose("flasc", roles=RoleDensities(b=1.0, head=0.5))},
        {"method": compose("ravan", aggregation="zero-padded-updates")},
    ],
    ids=["int4", "step", "shared", "fedselect", "ranks", "segments", "roles", "ravan"],
)
def test_no_client_moves_the_sum_by_more_than_is_accounted(settings, monkeypatch):
    """A Poisson sample is accounted for a client that is added or removed: one norm."""
    sums = []
    monkeypatch.setattr(
        private_module,
        "released",
        lambda total, **_: sums.append(total) or np.zeros(len(total), np.float32),
    )

    def without(arrays, client, current):
        if client == 0:
            raise RuntimeError("it does not take part")
        return leap(arrays, client, current)

    own = privacy(population=4, sampling="poisson", noise_multiplier=0.0)
    for trainer in (leap, without):
        grid = LocalGrid(client_app(trainer), 4, node_configs=UNEQUAL)
        run(own, 1, grid=grid, fraction_train=1.0, **settings)
    moved = np.linalg.norm(sums[0] - sums[1])
    assert 0.1 * own.clip_norm < moved <= own.clip_norm * (1 + 1e-12)


def test_what_does_not_sum_updates_gets_no_noise():
    layout = Layout.of(adapter())
    private = Private(privacy(noise_multiplier=0.0), {})
    made = aggregator("svd")(layout, np.zeros(layout.size, np.float32))
    with pytest.raises(TypeError, match="needs a sum of clipped updates, got Svd"):
        private.release(made)


def test_an_epsilon_that_no_noise_reaches_is_refused():
    """It doubled the noise until that was infinite."""
    settings = {"rounds": 4, "cohort": 3, "population": 12, "sampling": "poisson"}
    with pytest.raises(ValueError, match=r"epsilon must be >= .*, got 1e-09"):
        noise_for(1e-9, delta=1e-200, **settings)
    # And the least noise is enough for any that is large.
    assert noise_for(1e30, **settings) <= 2e-6


def seeding(arrays, client, current):
    """Train, as code does that seeds numpy with the seed of the run."""
    np.random.seed(0)
    return {name: array + np.float32(1) for name, array in arrays.items()}


def test_the_noise_of_local_privacy_is_not_that_of_a_seed():
    """All clients added the same noise in every round: the server can compute it."""
    config = {"local-dp-epsilon": 0.5, "local-dp-clip-norm": 1.0, "local-dp-delta": 0.1}
    app = client_app(seeding, mods=[flasc_mod, local_dp])
    grid = RecordingGrid(app, 2, run_config=config)
    Flasc(method="dense", fraction_train=1.0).start(grid, array_record(adapter()), 2)
    sent = [payload_of(m.content["arrays"]) for m in grid.up if "arrays" in m.content]
    assert len(sent) == len(set(sent)) == 4


@pytest.mark.parametrize("step", [0.0, 1e-30])
def test_local_privacy_hides_that_training_changed_nothing(step):
    """Flower divided by the norm, 0, and the server was sent a ZeroDivisionError."""

    def stay(arrays, client, current):
        return {name: array + np.float32(step) for name, array in arrays.items()}

    config = {"local-dp-epsilon": 0.5, "local-dp-clip-norm": 1.0, "local-dp-delta": 0.1}
    app = client_app(stay, mods=[flasc_mod, local_dp])
    seen = []
    strategy = Flasc(method="dense", fraction_train=1.0)
    strategy.server.step = spying(strategy.server.step, seen)
    grid = LocalGrid(app, 4, run_config=config)
    strategy.start(grid, array_record(adapter()), 1)
    assert strategy.state.history[1]["replies"] == 4
    # Four clients' mean of sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon.
    expected = 2.0 * np.sqrt(2 * np.log(1.25 / 0.1)) / 0.5 / np.sqrt(4)
    assert seen[0].std() == pytest.approx(expected, rel=0.3)

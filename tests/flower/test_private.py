"""Runs with differential privacy: what is accounted, and what closes."""

import json

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event, rdp
from typer.testing import CliRunner

from flasc_flwr import Flasc, flasc_mod
from flasc_flwr.app.cli import app
from flasc_flwr.core.codec import decode
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.privacy.accounting import noise_for
from flasc_flwr.flower.privacy.local_dp import local_dp
from flasc_flwr.flower.state.checkpoint_files import Checkpoints, read
from flasc_flwr.flower.wire import array_record, payload_of
from tests.flower.apps import RecordingGrid, adapter, client_app

CLIENTS = 12
ROUNDS = 60


def privacy(**settings):
    usual = {
        "clip_norm": 0.5,
        "noise_multiplier": 1.1,
        "population": CLIENTS,
        "noise_seed": 7,
    }
    return Privacy(**usual | settings)


def strategy_of(own, **settings):
    usual = {"fraction_train": 0.25, "min_train_nodes": 1, "privacy": own}
    return Flasc(**usual | settings)


def run(own, rounds=3, app=None, clients=CLIENTS, grid=None, **settings):
    strategy = strategy_of(own, **settings)
    grid = grid or LocalGrid(app or client_app(), clients)
    strategy.start(grid, array_record(adapter()), rounds, timeout=1)
    return strategy


def epsilons(strategy):
    return [row.get("epsilon") for row in strategy.state.history[1:]]


def told_by_dp_accounting(event, neighbours, delta, rounds):
    ledger = rdp.RdpAccountant(neighboring_relation=neighbours)
    ledger.compose(event, rounds)
    return ledger.get_epsilon(delta)


@pytest.mark.parametrize(
    ("z", "fraction", "delta", "rounds"),
    [(1.1, 0.25, None, 3), (0.7, 0.5, 1e-3, 5), (3.0, 1.0, 1e-6, 2)],
)
def test_epsilon_is_dp_accountings_own(z, fraction, delta, rounds):
    cohort = int(fraction * CLIENTS)
    expected_delta = CLIENTS**-1.1 if delta is None else delta
    gaussian = dp_event.GaussianDpEvent

    fixed = run(
        privacy(noise_multiplier=z, delta=delta), rounds, fraction_train=fraction
    )
    # One client replaced by another moves the sum by twice the norm.
    event = dp_event.SampledWithoutReplacementDpEvent(CLIENTS, cohort, gaussian(z / 2))
    relation = NeighboringRelation.REPLACE_ONE
    assert epsilons(fixed) == [
        pytest.approx(told_by_dp_accounting(event, relation, expected_delta, n))
        for n in range(1, rounds + 1)
    ]
    assert {row["delta"] for row in fixed.state.history[1:]} == {expected_delta}

    poisson = run(
        privacy(noise_multiplier=z, delta=delta, sampling="poisson"),
        rounds,
        fraction_train=fraction,
    )
    event = dp_event.PoissonSampledDpEvent(fraction, gaussian(z))
    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    assert epsilons(poisson)[-1] == pytest.approx(
        told_by_dp_accounting(event, relation, expected_delta, rounds)
    )


def still(arrays, client, current):
    """Train nothing: what the server vector becomes is noise alone."""
    return arrays


def test_every_coordinate_of_the_server_vector_gets_the_noise():
    """Also those that no client sent, and within 2 % of ``z C / m``."""
    own = privacy(clip_norm=0.5, noise_multiplier=2.0, population=4)
    strategy = strategy_of(
        own, fraction_train=1.0, server_optimizer=Sgd(), download_density=1 / 8
    )
    grid = LocalGrid(client_app(still), 4)
    vectors = []
    strategy.server.step = spying(strategy.server.step, vectors)
    strategy.start(grid, array_record(adapter()), ROUNDS)
    noise = np.array(vectors)
    expected = 2.0 * 0.5 / 4
    assert noise.shape == (ROUNDS, strategy.state.layout.size)
    assert noise.std() == pytest.approx(expected, rel=0.02)
    assert np.abs(noise.std(axis=0) / expected - 1).max() < 5 / np.sqrt(2 * ROUNDS)


def spying(step, seen):
    def spy(aggregate):
        seen.append(aggregate.update)
        return step(aggregate)

    return spy


def leap(arrays, client, current):
    """A client that goes much further than it may."""
    return {name: value + np.float32(100) for name, value in arrays.items()}


@pytest.mark.parametrize("clip", ["after", "before"])
@pytest.mark.parametrize("values", ["float32", "int4"])
def test_a_client_that_ignores_the_bound_is_clipped_by_the_server(clip, values):
    own = privacy(clip=clip, noise_multiplier=0.0, clip_norm=0.5)
    seen = []
    strategy = strategy_of(own, values=values, upload_density=1 / 2)
    strategy.server.step = spying(strategy.server.step, seen)
    strategy.start(LocalGrid(client_app(leap), CLIENTS), array_record(adapter()), 1)
    (mean,) = seen
    assert 0.1 < np.linalg.norm(mean.astype(np.float64)) <= 0.5 * (1 + 1e-6)
    assert strategy.state.history[1]["epsilon"] is None


def test_clipping_before_the_selection_is_asked_of_the_client():
    """What a client sends is then the largest of an update within the norm."""
    own = privacy(clip="before", noise_multiplier=0.0, clip_norm=0.5)
    sparse, whole = [], []
    for density, seen in ((1 / 8, sparse), (1, whole)):
        strategy = strategy_of(own, values="float32", upload_density=density)
        strategy.server.step = spying(strategy.server.step, seen)
        grid = LocalGrid(client_app(leap), CLIENTS)
        strategy.start(grid, array_record(adapter()), 1)
    size = whole[0].size
    # Every entry of the update is the same: an eighth of them has its square norm.
    assert np.linalg.norm(whole[0]) == pytest.approx(0.5, rel=1e-5)
    assert np.linalg.norm(sparse[0]) <= 0.5 * np.sqrt(1 / 8 + 1 / size) * 1.01


def test_what_clients_measured_is_told_nowhere():
    private = run(privacy())
    open_ = run(None)
    assert "train_loss" in open_.state.history[1]
    assert not [k for k in private.state.history[1] if k.startswith("train_")]


def test_a_target_ends_the_run_before_it_is_passed():
    spent = epsilons(run(privacy(), 6))
    assert spent == sorted(spent)
    target = (spent[2] + spent[3]) / 2
    strategy = run(privacy(max_epsilon=target), 6)
    assert epsilons(strategy) == spent[:3]
    assert "another round would spend more than dp-max-epsilon" in strategy.ended
    with pytest.raises(ValueError, match="another round would spend more"):
        run(privacy(max_epsilon=spent[0] / 2))


def test_fewer_replies_get_no_less_noise():
    """The sum's noise is the same: the mean is over those that were drawn."""

    def failing(arrays, client, current):
        if client % 2:
            raise RuntimeError("no power")
        return arrays

    def noise_of(trainer):
        seen = []
        strategy = strategy_of(privacy(), fraction_train=1.0)
        strategy.server.step = spying(strategy.server.step, seen)
        grid = LocalGrid(client_app(trainer), CLIENTS)
        strategy.start(grid, array_record(adapter()), 1)
        return seen[0]

    np.testing.assert_array_equal(noise_of(still), noise_of(failing))


def test_an_empty_poisson_sample_is_a_release_as_well():
    strategy = run(
        privacy(sampling="poisson", population=CLIENTS), 4, fraction_train=0.01
    )
    rows = strategy.state.history[1:]
    assert 0 in [row["replies"] for row in rows]
    assert not any(row["skipped"] for row in rows)
    assert len(set(epsilons(strategy))) == 4


def test_a_poisson_sample_has_clients_one_by_one():
    own = privacy(sampling="poisson", population=200)
    strategy = run(own, 20, clients=200, fraction_train=0.1)
    drawn = [row["replies"] for row in strategy.state.history[1:]]
    assert len(set(drawn)) > 3
    # 20 draws of a binomial of 200 and 0.1: five standard errors.
    assert np.mean(drawn) == pytest.approx(20, abs=5 * np.sqrt(18 / 20))


def test_too_few_clients_end_the_run():
    with pytest.raises(Exception, match=str(CLIENTS)):
        run(privacy(), clients=CLIENTS - 1)


def test_a_cohort_larger_than_the_population_is_refused():
    with pytest.raises(ValueError, match="dp-population must be .*, got 2"):
        run(privacy(population=2), fraction_train=1.0, min_train_nodes=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "examples"}, "weighting must be 'uniform', .*, got 'examples'"),
        ({"oversample": 1.5}, "oversample must be 1, .*, got 1.5"),
        (
            {
                "guard": Guard(min_replies=2),
                "own": privacy(sampling="poisson"),
            },
            "min-replies must be 1 with dp-sampling 'poisson', .*, got 2",
        ),
        ({"fraction_evaluate": 0.5}, "fraction-evaluate must be 0, .*, got 0.5"),
        ({"method": "hetlora"}, "aggregation must be .*, got 'frobenius'"),
        ({"method": "flora"}, "aggregation must be .*, got 'stacking'"),
        (
            {"method": compose("dense", exact_residual=True)},
            "exact-residual must be False",
        ),
    ],
)
def test_what_noise_cannot_cover_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        strategy_of(**{"own": privacy()} | settings)


@pytest.mark.parametrize("own", [{}, {"quantile": 0.5}, {"noise_seed": None}])
def test_a_resumed_run_has_spent_what_the_whole_one_has(tmp_path, own):
    whole = run(privacy(**own), 5)
    run(privacy(**own), 3, on_checkpoint=Checkpoints(tmp_path, 1))
    resumed = run(privacy(**own), 5, resume=read(tmp_path))
    assert epsilons(resumed) == epsilons(whole)
    if "noise_seed" not in own:
        np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
        ours, theirs = resumed.state.privacy, whole.state.privacy
        assert ours["clip_norm"] == theirs["clip_norm"]


def test_the_norm_adapts_and_the_history_tells_it():
    strategy = run(privacy(quantile=0.5, clip_norm=100.0), 6)
    norms = [row["clip_norm"] for row in strategy.state.history[1:]]
    assert norms[0] == 100.0
    assert norms[-1] < norms[0]


def test_noise_and_cohorts_come_from_nobody_knows_where():
    first, second = (run(privacy(noise_seed=None), 1) for _ in range(2))
    assert not np.array_equal(first.state.vector, second.state.vector)
    secrets = {s.state.privacy["secret"] for s in (first, second)}
    assert len(secrets) == 2


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_the_noise_for_an_epsilon_spends_it_and_not_more(sampling):
    z = noise_for(4.0, rounds=4, cohort=3, population=CLIENTS, sampling=sampling)
    spent = epsilons(run(privacy(noise_multiplier=z, sampling=sampling), 4))[-1]
    assert 4.0 * 0.99 < spent <= 4.0
    words = f"--epsilon 4 --rounds 4 --cohort 3 --population {CLIENTS}".split()
    found = CliRunner().invoke(app, ["noise", *words, "--sampling", sampling])
    assert found.exit_code == 0
    # Rounded up: rounded down, it would spend more.
    printed = float(found.stdout.removeprefix("dp-noise-multiplier = ").split()[0])
    assert z <= printed < z + 1e-4
    assert CliRunner().invoke(app, ["noise", *words, "--epsilon", "-1"]).exit_code == 2


def test_a_shared_mask_sends_the_same_positions_of_everyone():
    grid = RecordingGrid(client_app(), 4)
    strategy = Flasc(
        method="flasc-shared-mask",
        download_density=0.3,
        values="float32",
        fraction_train=1.0,
    )
    seen = []
    strategy.server.step = spying(strategy.server.step, seen)
    strategy.start(grid, array_record(adapter()), 3)
    for update in seen[1:]:
        support = strategy.state.layout.size * 0.3
        assert 0.8 * support < np.count_nonzero(update) <= support + 1
    assert np.count_nonzero(seen[0]) > 0.9 * seen[0].size  # the dense round
    (length,) = {np.count_nonzero(update) for update in seen[-1:]}
    for reply in grid.up[-4:]:
        (record,) = reply.content.array_records.values()
        # All of a vector that long: there are no positions to be read off it.
        assert decode(payload_of(record), size=length).kept == length


def test_local_privacy_stands_behind_flasc_mod():
    config = {
        "local-dp-epsilon": 0.5,
        "local-dp-delta": 1e-5,
        "local-dp-clip-norm": 0.1,
    }
    updates = {}
    for name, settings in (("private", config), ("open", {"local-dp-epsilon": 0.0})):
        app = client_app(leap, mods=[flasc_mod, local_dp])
        grid = RecordingGrid(app, 4, run_config=settings)
        strategy = Flasc(
            upload_density=1,
            values="float32",
            download_density=1,
            fraction_train=1.0,
        )
        seen = []
        strategy.server.step = spying(strategy.server.step, seen)
        strategy.start(grid, array_record(adapter()), 1)
        updates[name] = seen[0]
        metrics = grid.up[-1].content["metrics"]
        assert ("loss" in metrics) == (name == "open")
    np.testing.assert_allclose(updates["open"], 100, rtol=1e-5)
    # Four clients' mean of sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon.
    expected = 0.2 * np.sqrt(2 * np.log(1.25 / 1e-5)) / 0.5 / np.sqrt(4)
    assert updates["private"].std() == pytest.approx(expected, rel=0.3)


def test_with_local_privacy_no_metric_of_an_evaluation_leaves_a_client():
    config = {"local-dp-epsilon": 0.5, "local-dp-clip-norm": 1.0, "local-dp-delta": 0.1}
    app = client_app(mods=[flasc_mod, local_dp])
    grid = RecordingGrid(app, 4, run_config=config)
    Flasc(fraction_train=1.0, fraction_evaluate=1.0).start(
        grid, array_record(adapter()), 1
    )
    evaluated = grid.up[-4:]
    assert all(reply.metadata.message_type == "evaluate" for reply in evaluated)
    assert [dict(reply.content["metrics"]) for reply in evaluated] == [
        {"num-examples": 1}
    ] * 4


def test_a_poisson_sample_of_which_all_fail_is_released_like_an_empty_one():
    """A skipped round would reveal that the client that failed was drawn."""

    def fail(arrays, client, current):
        return {
            n: np.full_like(a, np.nan if current > 1 else 1) for n, a in arrays.items()
        }

    own = privacy(sampling="poisson")
    strategy = run(own, 3, app=client_app(fail), fraction_train=1.0)
    rows = strategy.state.history[1:]
    assert [row["replies"] for row in rows] == [CLIENTS, 0, 0]
    assert not any(row["skipped"] for row in rows)
    assert strategy.state.optimizer.step == 3
    assert rows[0]["epsilon"] < rows[1]["epsilon"] < rows[2]["epsilon"]


def test_the_accountant_is_in_the_checkpoint_as_plain_json(tmp_path):
    run(privacy(), 2, on_checkpoint=Checkpoints(tmp_path, 1))
    known = read(tmp_path).state.privacy
    assert json.loads(json.dumps(known)) == known
    assert sum(c["count"] for c in known["accountant"]["compositions"]) == 2

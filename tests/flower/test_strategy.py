import numpy as np
import pytest
from flwr.app import MetricRecord

from flasc_flwr import Flasc
from flasc_flwr.core.codec import decode
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.optimizers import Sgd
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of, message_bytes, payload_of
from tests.flower.apps import RecordingGrid, adapter, client_app, nudge

LAYOUT = Layout.of(adapter())


def start(app=None, clients=4, rounds=2, grid=None, evaluate_fn=None, **settings):
    grid = grid or RecordingGrid(app or client_app(), clients)
    strategy = Flasc(**{"fraction_train": 1.0} | settings)
    result = strategy.start(
        grid, array_record(adapter()), rounds, evaluate_fn=evaluate_fn
    )
    return strategy, grid, result


def trained_nodes(grid):
    return [m.metadata.dst_node_id for m in grid.down if "arrays" in m.content]


def test_cohorts_depend_on_the_seed_and_on_nothing_else():
    draws = [
        trained_nodes(start(clients=10, rounds=4, fraction_train=0.3, seed=seed)[1])
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 4 * 3
    assert all(len(set(draws[0][i : i + 3])) == 3 for i in range(0, 12, 3))


def test_cohorts_follow_names_not_node_ids():
    """Node ids differ from run to run; what a node is called does not."""

    def names(order):
        configs = [{"partition-id": i} for i in order]
        grid = RecordingGrid(client_app(), 6, node_configs=configs)
        start(grid=grid, rounds=3, fraction_train=0.5)
        return [order[node - 1] for node in trained_nodes(grid)]

    assert names([0, 1, 2, 3, 4, 5]) == names([5, 3, 1, 0, 2, 4])


def test_the_server_vector_stays_dense():
    strategy, _, _ = start(download_density=0.1, upload_density=0.1, rounds=1)
    moved = strategy.state.vector
    # AdamW's decay moves every entry; a pruned vector would be mostly zero.
    start_vector = LAYOUT.flatten(adapter())
    assert np.count_nonzero(moved) >= np.count_nonzero(start_vector)


def test_every_budget_is_encoded_once_and_sent_to_its_nodes():
    configs = [{}, {"download-density": 0.1}, {}, {"download-density": 0.1}]
    grid = RecordingGrid(client_app(), 4, node_configs=configs)
    start(grid=grid, rounds=1, download_density=0.5)
    by_node = {
        m.metadata.dst_node_id: payload_of(m.content["arrays"])
        for m in grid.down
        if "arrays" in m.content
    }
    assert by_node[1] is by_node[3]
    assert by_node[2] is by_node[4]
    kept = {node: decode(p, LAYOUT.size).kept for node, p in by_node.items()}
    assert kept[2] == int(LAYOUT.size * 0.1)
    assert kept[1] == int(LAYOUT.size * 0.5)


def test_a_nodes_own_upload_density_is_its_own():
    grid = RecordingGrid(client_app(), 2, node_configs=[{"upload-density": 0.05}, {}])
    start(grid=grid, rounds=1, upload_density=0.5, download_density=1.0)
    kept = {
        m.metadata.src_node_id: decode(
            payload_of(m.content["arrays"]), LAYOUT.size
        ).kept
        for m in grid.up
        if "arrays" in m.content
    }
    assert kept == {1: int(LAYOUT.size * 0.05), 2: int(LAYOUT.size * 0.5)}


def test_dense_ignores_densities_even_a_nodes_own():
    grid = RecordingGrid(client_app(), 2, node_configs=[{"upload-density": 0.05}, {}])
    strategy, _, _ = start(grid=grid, rounds=1, method="dense")
    assert strategy.state.history[1]["kept_up"] == 1.0


def test_history_counts_every_byte_that_travels():
    strategy, grid, _ = start(rounds=3, fraction_evaluate=0.5)
    rows = strategy.state.history
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for way, messages in (("down", grid.down), ("up", grid.up)):
        carried = [m for m in messages if "arrays" in m.content.array_records]
        payload = sum(len(payload_of(m.content["arrays"])) for m in carried)
        assert sum(row[f"payload_bytes_{way}"] for row in rows) == payload
        size = sum(message_bytes(messages))
        assert sum(row[f"message_bytes_{way}"] for row in rows) == size


def test_message_bytes_are_those_of_the_serialized_objects():
    from flasc_flwr.flower.compat import get_all_nested_objects

    _, grid, _ = start(rounds=1)
    for message in grid.down + grid.up:
        objects = get_all_nested_objects(message).values()
        assert message_bytes([message]) == [sum(len(o.deflate()) for o in objects)]


def test_both_what_clients_receive_and_the_server_vector_are_evaluated():
    seen = []

    def evaluate_fn(server_round, arrays):
        vector = LAYOUT.flatten(arrays_of(arrays))
        seen.append(vector)
        return MetricRecord({"nonzero": int(np.count_nonzero(vector))})

    strategy, _, result = start(
        rounds=1, evaluate_fn=evaluate_fn, download_density=0.2, values="float32"
    )
    row = strategy.state.history[-1]
    assert row["nonzero"] == int(LAYOUT.size * 0.2)
    assert row["server_nonzero"] == np.count_nonzero(strategy.state.vector)
    np.testing.assert_array_equal(seen[-1], strategy.state.vector)
    assert result.evaluate_metrics_serverapp[1]["nonzero"] == row["nonzero"]


def test_equal_vectors_are_evaluated_once():
    calls = []

    def evaluate_fn(server_round, arrays):
        calls.append(server_round)
        return MetricRecord({"accuracy": 0.5})

    strategy, _, _ = start(
        method="dense", rounds=4, evaluate_fn=evaluate_fn, evaluate_every=3
    )
    assert calls == [0, 3, 4]
    accuracies = [row["accuracy"] for row in strategy.state.history]
    assert accuracies == [0.5, None, None, 0.5, 0.5]


@pytest.mark.parametrize(
    "ends",
    [
        {"stop": Stop(megabytes=0.05)},
        {
            "privacy": Privacy(
                clip_norm=1.0, noise_multiplier=1.0, population=4, max_epsilon=12.0
            )
        },
    ],
    ids=["bytes", "epsilon"],
)
def test_the_last_round_of_a_run_that_ends_early_is_evaluated(ends):
    """Its result is what the run leaves, and not what it once was."""
    calls = []

    def evaluate_fn(server_round, arrays):
        calls.append(server_round)
        return MetricRecord({"accuracy": server_round / 100})

    strategy, _, _ = start(
        method="dense", rounds=50, evaluate_fn=evaluate_fn, evaluate_every=40, **ends
    )
    last = strategy.state.history[-1]
    assert strategy.ended and 2 < last["round"] < 40
    assert calls[0] == 0 and set(calls[1:]) == {last["round"]}
    assert last["accuracy"] == last["round"] / 100


def test_clients_that_fail_are_counted_and_the_round_goes_on():
    def trainer(arrays, client, current):
        if client == 1:
            raise RuntimeError("out of battery")
        if client == 2:
            return {name: value * np.float32("nan") for name, value in arrays.items()}
        return nudge(arrays, client, current)

    strategy, _, _ = start(client_app(trainer), rounds=2)
    for row in strategy.state.history[1:]:
        assert row["replies"] == 2
        reasons = {f["client"]: f["reason"] for f in row["failures"]}
        assert "out of battery" in reasons["1"]
        assert "'layer.lora_A.weight' must hold finite numbers" in reasons["2"]


def test_the_others_updates_are_what_is_left():
    def trainer(arrays, client, current):
        if client == 0:
            raise RuntimeError("gone")
        return {name: value + client for name, value in arrays.items()}

    settings = {
        "method": "dense",
        "rounds": 1,
        "clients": 3,
        "server_optimizer": Sgd(learning_rate=1.0),
    }
    strategy, _, _ = start(client_app(trainer), **settings)
    expected = LAYOUT.flatten(adapter()) + (1 + 2) / 2
    np.testing.assert_allclose(strategy.state.vector, expected, rtol=1e-6)


def test_a_round_without_replies_is_skipped():
    def trainer(arrays, client, current):
        raise RuntimeError(f"client {'abcd'[client]} is gone")

    strategy, _, result = start(client_app(trainer), rounds=2)
    np.testing.assert_array_equal(strategy.state.vector, LAYOUT.flatten(adapter()))
    assert strategy.state.optimizer.step == 0
    assert not result.train_metrics_clientapp


@pytest.mark.parametrize("examples", [0, -3])
def test_absurd_numbers_of_examples_are_rejected(examples):
    strategy, _, _ = start(client_app(examples=examples), rounds=1)
    failures = strategy.state.history[1]["failures"]
    assert len(failures) == 4
    assert all("'num-examples' must be" in failure["reason"] for failure in failures)


def test_an_app_without_the_mod_is_told_what_to_add():
    with pytest.raises(RuntimeError, match="none of the 4 connected nodes"):
        start(client_app(mods=[]))


def test_too_few_nodes_end_the_run_with_the_reason():
    strategy = Flasc(min_available_nodes=3)
    with pytest.raises(RuntimeError, match="2 of at least 3 nodes.*num-supernodes"):
        strategy.start(
            LocalGrid(client_app(), 2), array_record(adapter()), 1, timeout=0.1
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "magic"},
            "method must be one of 'dense', 'flasc', 'flasc-",
        ),
        (
            {"weighting": "loud"},
            "weighting must be one of 'uniform', 'examples'",
        ),
        ({"download_density": 0}, "download-density must be .*, got 0"),
        ({"upload_density": 1.5}, "upload-density must be .*, got 1.5"),
        (
            {"values": "float8"},
            "values must be one of 'auto', 'float32'",
        ),
        (
            {"fraction_train": 2},
            r"fraction-train must be a number in \[0, 1\]",
        ),
        ({"fraction_evaluate": -1}, "fraction-evaluate must be .*, got -1"),
        ({"evaluate_every": 0}, "evaluate_every must be .*, got 0"),
        ({"arrayrecord_key": "merged"}, "arrayrecord_key must not be .*'merged'"),
        ({"configrecord_key": "flasc"}, "configrecord_key must not be .*'flasc'"),
        ({"configrecord_key": "arrays"}, "must differ, got 'arrays' for both"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Flasc(**settings)


def test_a_role_of_an_array_that_is_not_there_is_refused():
    strategy = Flasc(roles={"clasifier.weight": Role.HEAD})
    with pytest.raises(ValueError, match="roles must name arrays .*'clasifier.weight'"):
        strategy.start(LocalGrid(client_app(), 2), array_record(adapter()), 1)


def test_more_arrays_than_devices_accept_are_refused_at_the_start(monkeypatch):
    most = len(adapter()) - 1
    monkeypatch.setattr("flasc_flwr.core.codec.carried.MOST_TENSORS", most)
    strategy, grid = Flasc(), RecordingGrid(client_app(), 2)
    with pytest.raises(ValueError, match=f"must be <= {most} in one message, got"):
        strategy.start(grid, array_record(adapter()), 1)
    assert grid.down == []

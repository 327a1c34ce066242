import multiprocessing
import os
import random
import signal
import time
import tracemalloc

import numpy as np
import pytest

from flasc_flwr import Flasc
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.rank_assignment import ValidationRanks
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.optimizers import OptimizerState
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state import checkpoint_files as module
from flasc_flwr.flower.state.checkpoint import Checkpoint, CheckpointError
from flasc_flwr.flower.state.checkpoint_files import Checkpoints, found, read, write
from flasc_flwr.flower.state.hashed_file import HashedFile
from flasc_flwr.flower.state.run_state import RunState
from flasc_flwr.flower.wire import array_record
from tests.flower.apps import adapter, client_app, nudge

SETTINGS = {
    "flasc": {"decay": Decay(download=0.9), "download_density": 0.5},
    "sparse-adapter": {},
    "rolora": {},
    "replication": {
        "validation": ValidationRanks(
            loss_of=lambda arrays: float(np.abs(arrays["classifier.weight"]).sum()),
            low_rank=2,
            fraction=0.3,
        )
    },
    "flora": {},
    "fedex-lora": {},
}


def strategy_of(method, **settings):
    usual = {"method": method, "fraction_train": 0.5, "seed": 3}
    return Flasc(**usual | SETTINGS.get(method, {}) | settings)


def run(strategy, rounds, start=0):
    strategy.start(LocalGrid(client_app(), 6), array_record(adapter(start)), rounds)
    return strategy


@pytest.mark.parametrize("method", list(SETTINGS))
def test_a_resumed_run_ends_as_if_it_had_never_stopped(tmp_path, method):
    whole = run(strategy_of(method), 6)
    run(strategy_of(method, on_checkpoint=Checkpoints(tmp_path, 1)), 3)
    resumed = run(strategy_of(method, resume=read(tmp_path)), 6)
    np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
    for name, moment in whole.state.optimizer.moments.items():
        np.testing.assert_array_equal(resumed.state.optimizer.moments[name], moment)
    assert resumed.state.ranks == whole.state.ranks
    for name, array in whole.state.merged.items():
        np.testing.assert_array_equal(resumed.state.merged[name], array)
    rows = resumed.state.history
    assert [row["round"] for row in rows] == list(range(7))
    # Nodes introduce themselves again; nothing else is sent twice or left out.
    for ours, theirs in zip(rows, whole.state.history, strict=True):
        for key in ("ranks", "replies", "failures", "kept_up", "payload_bytes_up"):
            assert ours[key] == theirs[key], (ours["round"], key)


def test_a_run_resumes_with_fewer_nodes_than_it_began_with():
    ten = strategy_of("flasc", min_available_nodes=10, min_train_nodes=10)
    ten.start(LocalGrid(client_app(), 10), array_record(adapter()), 2)
    saved = Checkpoint(2, ten.settings, ten.state)
    fewer = strategy_of("flasc", min_train_nodes=1, resume=saved)
    assert [row["replies"] for row in run(fewer, 4).state.history] == [0, 10, 10, 3, 3]


def test_ranks_are_those_of_the_round_that_steps_resumed_or_not():
    """A round without enough replies measures losses, and assigns no ranks."""

    def trainer(arrays, client, current):
        if (client == 5) == (current == 2):
            raise ValueError(f"not in round {current}")
        best = arrays["classifier.weight"] * (client != 5)
        return {**nudge(arrays, client, current), "classifier.weight": best}

    def strategy(**more):
        return strategy_of("replication", guard=Guard(min_replies=2), **more)

    def start(strategy, rounds):
        grid = LocalGrid(client_app(trainer), 6)
        strategy.start(grid, array_record(adapter()), rounds)
        return strategy.state

    saved = []
    whole = start(strategy(), 2)
    start(strategy(on_checkpoint=saved.append), 1)
    resumed = start(strategy(resume=saved[-1]), 2)
    assert whole.history[1]["skipped"] and not whole.history[2]["skipped"]
    assert whole.ranks == resumed.ranks
    assert "5" not in whole.ranks


def a_checkpoint(round=4, method="flasc"):
    strategy = run(strategy_of(method), round)
    return Checkpoint(round, strategy.settings, strategy.state)


def test_what_is_read_is_what_was_written(tmp_path):
    original = a_checkpoint(method="sparse-adapter")
    again = read(write(tmp_path, original))
    assert again.round == 4
    assert again.state.layout == original.state.layout
    assert again.state.history == original.state.history
    assert again.state.traffic == original.state.traffic
    assert again.state.optimizer.step == original.state.optimizer.step
    assert again.state.supports.keys() == original.state.supports.keys() != set()
    for key, positions in original.state.supports.items():
        np.testing.assert_array_equal(again.state.supports[key], positions)
    again.require(original.settings, original.state.layout)


def test_a_file_has_the_bytes_of_its_checkpoint(tmp_path):
    original = a_checkpoint()
    assert write(tmp_path, original).read_bytes() == original.to_bytes()


def test_writing_takes_no_memory_of_the_size_of_the_state(tmp_path):
    size = 1 << 21
    layout = Layout.of({"classifier.weight": np.zeros((2, size // 2), np.float32)})
    vector = np.ones(size, np.float32)
    state = RunState(layout, vector, OptimizerState(1, {"m": vector, "v": vector}))
    tracemalloc.start()
    path = write(tmp_path, Checkpoint(1, {}, state))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 3 * vector.nbytes
    assert peak < 3 * vector.nbytes  # numpy writes an array by 16 MB at most
    np.testing.assert_array_equal(read(path).state.optimizer.moments["v"], vector)


def test_the_newest_two_are_kept_as_often_as_asked(tmp_path):
    run(strategy_of("flasc", on_checkpoint=Checkpoints(tmp_path, 2)), 7)
    assert [path.name for path in found(tmp_path)] == [
        "checkpoint-000004.flasc",
        "checkpoint-000006.flasc",
    ]
    assert read(tmp_path).round == 6


def test_a_run_resumed_from_an_older_checkpoint_sets_the_newer_ones_aside(tmp_path):
    run(strategy_of("flasc", on_checkpoint=Checkpoints(tmp_path, 2)), 6)
    older, newer = found(tmp_path)
    content = newer.read_bytes()
    # A resume that is refused changes nothing.
    refused = strategy_of(
        "flasc", seed=9, resume=read(older), on_checkpoint=Checkpoints(tmp_path, 3)
    )
    with pytest.raises(CheckpointError):
        run(refused, 9)
    assert found(tmp_path) == [older, newer]
    for every, rounds, left in ((9, 5, [4]), (3, 7, [4, 6])):
        checkpoints = Checkpoints(tmp_path, every)
        run(strategy_of("flasc", resume=read(older), on_checkpoint=checkpoints), rounds)
        # Once its first round has ended, the newest is what it resumed from.
        assert [read(path).round for path in found(tmp_path)] == left
    aside = tmp_path / (newer.name + ".abandoned")
    assert aside.read_bytes() == content


def test_a_checkpoint_that_is_kept_in_memory_stays_that_of_its_round():
    saved = []
    whole = run(strategy_of("flasc", on_checkpoint=saved.append), 5)
    assert [len(one.state.history) for one in saved] == [1, 2, 3, 4, 5, 6]
    resumed = run(strategy_of("flasc", resume=saved[2]), 5)
    np.testing.assert_array_equal(resumed.state.vector, whole.state.vector)
    assert [row["round"] for row in resumed.state.history] == list(range(6))


def test_a_new_run_in_the_folder_of_another_keeps_its_own_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    run(strategy_of("flasc", on_checkpoint=checkpoints), 6)
    run(strategy_of("flasc", on_checkpoint=checkpoints), 2)
    assert [read(path).round for path in found(tmp_path)] == [0, 2]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1], "checksum is wrong"),
        (lambda data: data[: len(data) // 2], "checksum is wrong"),
        (lambda data: data[:200] + b"\x00" + data[201:], "checksum is wrong"),
        (lambda data: b"", "does not start like a checkpoint"),
        (lambda data: b"PK" + data, "does not start like a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(
    tmp_path, damage, why
):
    older, newer = (write(tmp_path, a_checkpoint(round)) for round in (2, 3))
    newer.write_bytes(damage(newer.read_bytes()))
    with pytest.raises(CheckpointError, match=f"{why}.*is intact: .*000002"):
        read(tmp_path)
    assert read(older).round == 2
    older.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no intact one before it"):
        read(tmp_path)


def test_every_bit_counts(tmp_path):
    data = bytearray(a_checkpoint(1).to_bytes())
    rng = random.Random(0)
    for _ in range(200):
        place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[place] ^= bit
        with pytest.raises(CheckpointError):
            Checkpoint.from_bytes(bytes(data))
        data[place] ^= bit
    Checkpoint.from_bytes(bytes(data))


def test_no_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "nothing")


def test_another_configuration_is_refused_with_the_first_difference(tmp_path):
    saved = a_checkpoint()
    for settings, message in (
        ({"download_density": 0.1}, "has budget = .*0.5.*, this run has .*0.1"),
        ({"seed": 4}, "has sampling seed = 3, this run has 4"),
        ({"weighting": "examples"}, "has weighting = 'uniform', this run has"),
        ({"run_settings": {"batch-size": 8}}, "has batch-size = None, this run has 8"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(strategy_of("flasc", resume=saved, **settings), 6)


def test_another_adapter_is_refused_with_the_first_difference():
    saved = a_checkpoint()
    strategy = strategy_of("flasc", resume=saved)
    with pytest.raises(CheckpointError, match=r"lora_A.weight', shape=\(4, 11\)"):
        strategy.start(
            LocalGrid(client_app(), 2), array_record(adapter(rank=2)), num_rounds=6
        )


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "unlink"])
def test_a_failure_at_any_step_leaves_a_whole_checkpoint(tmp_path, monkeypatch, step):
    write(tmp_path, a_checkpoint(1))
    write(tmp_path, a_checkpoint(2))

    def fail(*arguments, **options):
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(HashedFile, "write", fail)
        elif step == "unlink":
            patch.setattr(module.Path, "unlink", fail)
        else:
            patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="no space"):
            write(tmp_path, a_checkpoint(3))
    assert read(tmp_path).round in (2, 3)
    assert write(tmp_path, a_checkpoint(4)) == found(tmp_path)[-1]


def _write_for_ever(folder, data):
    saved = Checkpoint.from_bytes(data)
    for number in range(read(folder).round + 1, 100_000):
        write(folder, Checkpoint(number, saved.settings, saved.state))


def test_a_process_killed_at_random_moments_leaves_a_whole_checkpoint(tmp_path):
    saved = a_checkpoint(2)
    # Some megabytes, so that most of the time goes into writing.
    saved.state.merged["x.merged"] = np.random.default_rng(0).standard_normal(
        (1000, 1500), np.float32
    )
    write(tmp_path, saved)
    data = saved.to_bytes()
    context = multiprocessing.get_context("fork")
    rng = random.Random(1)
    cut_short = 0
    for _ in range(50):
        before = found(tmp_path)[-1]
        process = context.Process(target=_write_for_ever, args=(tmp_path, data))
        process.start()
        # It is in the middle of things once it has written its first.
        while found(tmp_path)[-1] == before and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert read(tmp_path).round > 2
        cut_short += bool(list(tmp_path.glob("*.tmp")))
    assert cut_short > 0

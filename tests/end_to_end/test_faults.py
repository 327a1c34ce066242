"""Devices, links and a whole server that fail in the middle of a run."""

import time
from contextlib import ExitStack

import numpy as np
import pytest

from flasc_flwr.app.runs.local_run import run_locally
from flasc_flwr.flower.state.checkpoint_files import read
from tests.end_to_end.federation import CONNECTION, Federation
from tests.end_to_end.processes import (
    ROOT,
    Flower,
    free_port,
    history,
    kill,
    results,
    wait_until,
)
from tests.end_to_end.relay import Relay
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = pytest.mark.slow

TIMEOUT = 60
ROUNDS, CLIENTS = 10, 4
SETTINGS = {
    "num-server-rounds": ROUNDS,
    "checkpoint-every": 1,
    "lora-rank": 4,
    "local-epochs": 1,
    "server-optimizer": "fedadam",
}


def rows_of(output):
    """Return the history so far of the run whose folder is in `output`."""
    return [row for folder in output.glob("*") for row in history(folder)]


@pytest.mark.exhaustive
def test_a_killed_device_is_waited_for_no_longer_than_allowed_and_comes_back(tmp_path):
    federation = Federation(tmp_path)
    model = make_model(tmp_path / "models" / "tiny")
    test = make_rows(tmp_path / "data" / "server" / "test.csv", 16, seed=9)
    for node in range(2):
        make_rows(tmp_path / "data" / f"node-{node}" / "train.csv", 8, seed=node)
    runs = tmp_path / "runs"
    more = f"num-server-rounds=50 min-nodes=1 lora-rank=8 round-timeout={TIMEOUT}"
    with ExitStack() as stack:
        stack.enter_context(federation.server())
        victim = stack.enter_context(federation.node(0))
        stack.enter_context(federation.node(1))
        wait_until(lambda: federation.online() == 2, "two nodes online")
        federation.flower.run(
            *("flwr", "run", ".", CONNECTION),
            *run_config(model, test.parent, runs, more),
        )
        wait_until(lambda: len(rows_of(runs)) == 2, "round 1", 300)
        # It has fetched what it is to train on in round 2, and trains.
        wait_until(lambda: federation.log("node-0").count("ROUND 2]") == 1, "round 2")
        kill(victim.pid)
        wait_until(lambda: len(rows_of(runs)) > 2, "the end of round 2", 2 * TIMEOUT)
        stack.enter_context(federation.node(0, name="node-0-again"))
        wait_until(
            lambda: any(row["replies"] == 2 for row in rows_of(runs)[3:]),
            "a round with the node that came back",
            300,
        )
    rows = rows_of(runs)
    assert (rows[1]["replies"], rows[2]["replies"]) == (2, 1)
    assert rows[2]["seconds"] < TIMEOUT + 15
    assert [failure["client"] for failure in rows[2]["failures"]] in ([], ["0"])
    # The server learned from the other one all the same.
    assert rows[2]["server_loss"] != rows[1]["server_loss"]
    assert [row["round"] for row in rows] == list(range(len(rows)))


@pytest.mark.exhaustive
def test_a_link_that_is_cut_in_an_upload_delays_the_round_and_loses_nothing(tmp_path):
    flower, runs, cut = Flower(tmp_path / "flwr"), tmp_path / "runs", 8.0
    settings = SETTINGS | {"output-dir": str(runs), "num-server-rounds": 1}
    settings |= {"method": "dense", "value-format": "float32", "min-nodes": 2}
    config = " ".join(f"{key}={value!r}" for key, value in settings.items())
    disable = "--disable-runtime-dependency-installation"
    with ExitStack() as stack:
        connection = stack.enter_context(flower.superlink(disable))
        relay = stack.enter_context(Relay(flower.port, rate=20_000))
        for number, port in enumerate((relay.port, flower.port)):
            address = ("--superlink", f"127.0.0.1:{port}", "--port", str(free_port()))
            partition = f"partition-id={number} num-partitions=2"
            command = ("flower-supernode", "--insecure", *address)
            node = (f"node-{number}", *command, "--node-config", partition)
            stack.enter_context(flower.started(*node))
        flower.run("flwr", "run", ".", connection, "--run-config", config)
        log = flower.home / "node-0.log"
        # The first reply was its introduction.
        wait_until(lambda: log.read_text().count("Sending:") == 2, "round 1", 300)
        before = relay.up
        wait_until(lambda: relay.up > before + 20_000, "the middle of the upload", 300)
        relay.cut()
        time.sleep(cut)
        assert len(rows_of(runs)) == 1
        relay.restore()
        wait_until(lambda: len(rows_of(runs)) == 2, "the end of round 1", 300)
    row = rows_of(runs)[1]
    assert (row["replies"], row["failures"]) == (2, [])
    assert row["seconds"] > cut


def test_a_killed_server_resumes_and_ends_as_if_it_had_never_stopped(tmp_path):
    """The SuperLink, the ServerApp and all simulated clients at once, in round 5.

    Compared with an undisturbed run in one process, bit by bit.
    """
    runs = tmp_path / "runs"
    simulate(tmp_path / "first", runs, kill_in_round=5)
    assert 4 <= rows_of(runs)[-1]["round"] < ROUNDS
    simulate(tmp_path / "again", runs, resume="latest")
    expected = tmp_path / "in-process"
    run_locally(ROOT, SETTINGS | {"output-dir": str(expected)}, CLIENTS)
    ends = []
    for output in (expected, runs):
        folder, summary, rows = results(output)
        assert [row["round"] for row in rows] == list(range(ROUNDS + 1))
        assert summary["ended"] == "all rounds done"
        ends.append((read(folder / "checkpoints"), rows))
    (whole, _), (resumed, _) = ends
    assert whole.round == resumed.round == ROUNDS
    np.testing.assert_array_equal(whole.state.vector, resumed.state.vector)
    for moment, values in whole.state.optimizer.moments.items():
        np.testing.assert_array_equal(values, resumed.state.optimizer.moments[moment])
    for key in ("round", "accuracy", "loss", "payload_bytes_up", "payload_bytes_down"):
        values = [[row[key] for row in rows] for _, rows in ends]
        assert values[0] == values[1], key


def simulate(home, runs, *, kill_in_round=None, resume=None):
    """Run a small simulation, or kill all of it in one of its rounds."""
    flower = Flower(home)
    settings = SETTINGS | {"output-dir": str(runs)}
    if resume:
        settings["resume"] = resume
    config = " ".join(f"{key}={value!r}" for key, value in settings.items())
    options = ("--simulation", "--disable-runtime-dependency-installation")
    with flower.superlink(*options) as connection:
        command = ("flwr", "run", ".", connection)
        arguments = (
            *("--run-config", config),
            "--federation-config",
            f"num-supernodes={CLIENTS} client-resources-num-cpus=1",
        )
        if kill_in_round is None:
            flower.run(*command, "--stream", *arguments)
            return
        flower.run(*command, *arguments)
        wait_until(
            lambda: len(rows_of(runs)) >= kill_in_round, f"round {kill_in_round}", 300
        )
        kill(flower.superlink_pid)

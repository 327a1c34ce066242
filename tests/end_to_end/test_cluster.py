"""A simulation of unequal clients on a Ray cluster, and the threads of its clients."""

import tempfile
import time
from contextlib import ExitStack

import psutil
import pytest
import ray

from tests.end_to_end.processes import ROOT, Flower, free_port, results

pytestmark = pytest.mark.slow

ROUNDS = 3


def trains_clients(pid: int) -> bool:
    """Return whether one of a Ray node's processes is a client's."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if any("ClientAppActor" in word for word in process.cmdline()):
                return True
        except psutil.Error:
            continue
    return False


def test_a_run_uses_all_nodes_of_a_cluster(tmp_path):
    flower = Flower(tmp_path / "flwr")
    head = f"127.0.0.1:{free_port()}"
    flower.env["RAY_ADDRESS"] = head
    config = (
        f"method='flora' num-server-rounds={ROUNDS} fraction-train=1.0 "
        f"output-dir='{tmp_path / 'runs'}'"
    )
    federation = "num-supernodes=4 client-resources-num-cpus=1"
    port = head.rpartition(":")[2]
    node = ("ray", "start", "--block", "--num-cpus", "1", "--disable-usage-stats")
    with ExitStack() as stack:
        # For Ray's sockets, whose paths must be short.
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        )
        options = ("--head", "--include-dashboard=false", "--temp-dir", scratch)
        nodes = [
            stack.enter_context(flower.started("head", *node, *options, "--port", port))
        ]
        wait_for(flower, "head", "Ray runtime started")
        nodes.append(
            stack.enter_context(flower.started("second", *node, "--address", head))
        )
        wait_for(flower, "second", "Ray runtime started")
        superlink = ("--simulation", "--disable-runtime-dependency-installation")
        connection = stack.enter_context(flower.superlink(*superlink))
        command = ("flwr", "run", str(ROOT), connection, "--stream")
        run = stack.enter_context(
            flower.started(
                "run",
                *command,
                *("--run-config", config, "--federation-config", federation),
            )
        )
        on_both = False
        while run.poll() is None:
            on_both = on_both or all(trains_clients(n.pid) for n in nodes)
            time.sleep(0.2)
    printed = (flower.home / "run.log").read_text()
    _, summary, history = results(tmp_path / "runs")
    assert summary["ended"] == "all rounds done", printed
    assert [row["replies"] for row in history] == [0] + [4] * ROUNDS
    assert not any(row["failures"] for row in history)
    # A worker trains adapters of several ranks in turn, on one backbone.
    assert [row["ranks"] for row in history[1:]] == [{"1": 2, "4": 1, "16": 1}] * ROUNDS
    assert history[ROUNDS]["loss"] < history[0]["loss"]
    assert on_both


def wait_for(flower: Flower, name: str, words: str) -> None:
    """Wait until a process has printed `words`."""
    deadline = time.monotonic() + 60
    while words not in (log := (flower.home / f"{name}.log").read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.2)


def test_a_clients_torch_has_as_many_threads_as_the_client_has_cpus(monkeypatch):
    """Ray sets it, unless OMP_NUM_THREADS is set when it starts."""
    from flwr.simulation.ray_transport.ray_actor import ClientAppActor

    def app():
        def threads(message, context):
            import torch

            return torch.get_num_threads()

        return threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ray.init(num_cpus=2, include_dashboard=False, address="local")
    try:
        actor = ClientAppActor.options(num_cpus=2, num_gpus=0).remote()
        _, threads, _ = ray.get(actor.run.remote(app, None, "0", None))
        assert threads == 2
    finally:
        ray.shutdown()

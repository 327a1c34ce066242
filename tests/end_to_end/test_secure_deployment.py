"""The federation of deploy/compose.yaml: TLS, node authentication, own data."""

import sqlite3
from contextlib import ExitStack, closing

import pytest

from tests.end_to_end.federation import CONNECTION, Federation, make_keys
from tests.end_to_end.processes import kill, results, wait_until
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = pytest.mark.slow


def test_only_registered_nodes_take_part_each_with_its_own_data(tmp_path):
    """And a SuperLink that is killed and started again knows them."""
    federation = Federation(tmp_path)
    model = make_model(tmp_path / "models" / "tiny")
    test = make_rows(tmp_path / "data" / "server" / "test.csv", 64, seed=9)
    for node in range(3):
        rows = tmp_path / "data" / f"node-{node}" / "train.csv"
        make_rows(rows, 8 * (node + 1), seed=node)
    foreign = make_keys(tmp_path / "foreign")
    config = run_config(
        model,
        test.parent,
        tmp_path / "runs",
        "num-server-rounds=2 min-nodes=3 lora-rank=16 download-density=1.0",
    )
    with ExitStack() as stack:
        with federation.server() as superlink:
            for node in range(3):
                stack.enter_context(federation.node(node))
            # A key that nobody registered, and a server that a node does not trust.
            key, ca = foreign / "node-0", foreign / "ca.crt"
            for name, other, reason in (
                ("unregistered", {"key": key}, "Failed to activate SuperNode"),
                ("distrustful", {"ca": ca}, "CERTIFICATE_VERIFY_FAILED"),
            ):
                with federation.node(0, name=name, **other) as process:
                    assert process.wait(120) != 0
                assert reason in federation.log(name)
            wait_until(lambda: federation.online() == 3, "three nodes online")
            output = federation.flower.run(
                *("flwr", "run", ".", CONNECTION, "--stream"), *config
            )
            status = federation.flower.last_run(CONNECTION)["status"]
            assert status == "finished:completed", output
            kill(superlink.pid)
        before = max(online_until(tmp_path))
        # No key is registered again, and the SuperNodes were not touched.
        stack.enter_context(federation.server(register=False))
        wait_until(lambda: min(online_until(tmp_path)) > before, "all nodes back")
        assert federation.online() == 3

    _, summary, history = results(tmp_path / "runs")
    assert [row["round"] for row in history] == [0, 1, 2]
    size = summary["adapter_parameters"]
    head = 2 * 32 + 2
    smaller = (size - head) / 2 + head
    for row in history[1:]:
        assert (row["replies"], row["failures"]) == (3, [])
        # Node 1 has half the rank, node 2 an upload density of 1/16: its own.
        assert row["ranks"] == {"8": 1, "16": 2}
        kept = (size / 4 + smaller / 4 + size / 16) / 3
        assert row["kept_up"] == pytest.approx(kept / size, abs=1e-3)
        # 8, 16 and 24 rows in batches of 8: each trains on its own file.
        steps = (8 * 1 + 16 * 2 + 24 * 3) / (8 + 16 + 24)
        assert row["train_steps"] == pytest.approx(steps)
    assert history[2]["server_loss"] < history[0]["server_loss"]


def online_until(base):
    """Return until when the SuperLink takes each node to be online."""
    database = f"file:{base / 'state' / 'superlink.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as state:
        return [until for (until,) in state.execute("SELECT online_until FROM node")]

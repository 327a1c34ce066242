"""Error feedback between real processes, of which one is killed in between.

Each reply has the checksum of its device's reference. The server takes in only those
that equal its own, so a reply that counts says that the references are equal.
"""

from contextlib import ExitStack

import pytest

from flasc_flwr.app.reporting.runs import read_history
from tests.end_to_end.federation import CONNECTION, Federation
from tests.end_to_end.processes import kill, wait_until
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = pytest.mark.slow

TIMEOUT = 60


def rows_of(output):
    """Return the history so far of the run whose folder is in `output`."""
    return [row for folder in output.glob("*") for row in read_history(folder)]


def test_a_killed_node_comes_back_without_memory_and_is_sent_the_reference(tmp_path):
    federation = Federation(tmp_path)
    model = make_model(tmp_path / "models" / "tiny")
    test = make_rows(tmp_path / "data" / "server" / "test.csv", 16, seed=9)
    for node in range(2):
        make_rows(tmp_path / "data" / f"node-{node}" / "train.csv", 8, seed=node)
    runs = tmp_path / "runs"
    more = (
        "method='flasc-ef' download-density='1/8' upload-density='1/8' lora-rank=4 "
        f"num-server-rounds=50 min-nodes=1 round-timeout={TIMEOUT}"
    )
    with ExitStack() as stack:
        stack.enter_context(federation.server())
        victim = stack.enter_context(federation.node(0))
        stack.enter_context(federation.node(1))
        wait_until(lambda: federation.online() == 2, "two nodes online")
        federation.flower.run(
            *("flwr", "run", ".", CONNECTION),
            *run_config(model, test.parent, runs, more),
        )
        wait_until(lambda: len(rows_of(runs)) > 3, "round 3", 300)
        kill(victim.pid)
        killed_in = len(rows_of(runs))
        stack.enter_context(federation.node(0, name="node-0-again"))
        wait_until(
            lambda: any(row["replies"] == 2 for row in rows_of(runs)[killed_in + 1 :]),
            "a round with the node that came back",
            300,
        )
    rows = rows_of(runs)
    # Nobody ever held another reference than the server's.
    reasons = [one["reason"] for row in rows for one in row["failures"]]
    assert not [reason for reason in reasons if "reference" in reason]
    # Differences are much shorter than the first reference.
    both = [row for row in rows[1:killed_in] if row["replies"] == 2]
    assert all(
        r["payload_bytes_down"] < rows[1]["payload_bytes_down"] for r in both[1:]
    )

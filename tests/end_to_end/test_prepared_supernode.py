"""Real SuperNodes whose ClientApps are forked from a prepared process."""

import sys

import pytest

from tests.end_to_end.processes import Flower, free_port, results
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="forks are for Linux"
    ),
]

ROUNDS = 2


def test_a_prepared_supernode_trains_as_any_other(tmp_path):
    flower = Flower(tmp_path / "flwr")
    flower.env |= {"HF_HOME": str(tmp_path / "cache")}
    model = make_model(tmp_path / "model")
    test = make_rows(tmp_path / "server" / "test.csv", 16, seed=9)
    config = run_config(
        model, test.parent, tmp_path / "runs", f"num-server-rounds={ROUNDS} min-nodes=2"
    )
    rows = [
        make_rows(tmp_path / f"node-{n}" / "train.csv", 16, seed=n) for n in range(2)
    ]

    def settings(number):
        return f'partition-id={number} data-path="{rows[number]}"'

    command = (sys.executable, "-m", "flasc_flwr.app.cli", "supernode", "--insecure")
    disable = "--disable-runtime-dependency-installation"
    with flower.superlink(disable) as connection:
        place = ("--superlink", f"127.0.0.1:{flower.port}", "--port", str(free_port()))
        words = (*command, *place, "--node-config", settings(0))
        with flower.started("prepared", *words), flower.supernode("node", settings(1)):
            output = flower.run("flwr", "run", ".", connection, "--stream", *config)
    _, summary, history = results(tmp_path / "runs")
    assert summary["ended"] == "all rounds done", output
    assert [row["replies"] for row in history] == [0] + [2] * ROUNDS
    log = (flower.home / "prepared.log").read_text()
    assert log.count("Forked for a message") == ROUNDS + 1, log
    assert "Traceback" not in log

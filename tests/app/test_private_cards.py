"""The card of a private run's model: it is published, so it has noisy numbers only."""

import pytest

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.app.reporting.summary import how_it_ended
from flasc_flwr.app.runs.model_card import write_card

PRIVATE = {"dp-clip-norm": 1.0, "dp-noise-multiplier": 1.0, "dp-population": 9}
ROW = {"round": 2, "skipped": True, "failures": [{"reason": "norm must be 1, got 7"}]}


def card_of(folder, settings, ended):
    folder.mkdir()
    (folder / "README.md").write_text("# A model\n")
    summary = {
        "ended": ended,
        "message_bytes_down": 1_000_000,
        "message_bytes_up": 2_340_000,
        "reduction_vs_dense_float32": 5.67,
        "epsilon": 4.5,
    }
    config = RunConfig.parse({"task": "digits", **settings})
    run = SavedRun(folder=folder, config=config, history=[ROW], summary=summary)
    write_card(run, folder, merged=False)
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "ended",
    [how_it_ended("all 2 rounds", [ROW]), "failed: norm of the update is 7 of 1"],
)
def test_a_published_card_has_nothing_of_the_clients_without_noise(tmp_path, ended):
    private = card_of(tmp_path / "private", PRIVATE, ended)
    assert "| sent to clients | 1.00 MB |" in private
    assert "| epsilon of differential privacy | 4.5 |" in private
    ends = ("| ended | all 2 rounds |", "| ended | it failed |")
    assert sum(end in private for end in ends) == 1
    of_clients = ("2.34 MB", "5.7 times", "norm")
    assert not [part for part in of_clients if part in private]
    open_ = card_of(tmp_path / "open", {}, ended)
    assert all(part in open_ for part in of_clients)

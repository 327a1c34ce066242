"""The README's first command, in a real Ray simulation."""

import pytest

from tests.end_to_end.processes import Flower, readme_command, results, words

pytestmark = pytest.mark.slow


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path / "flwr")
    yield flower
    flower.stop_local_superlink()


def test_the_main_job_learns_with_a_fraction_of_the_bytes(flower, tmp_path):
    """The default job as it stands in the README: the run that users see first."""
    command = words(readme_command("Run it")[0].split(" && ")[1])
    assert command[:3] == ["flwr", "run", "."]
    output = flower.run(*command, "--run-config", f"output-dir='{tmp_path / 'runs'}'")
    folder, summary, history = results(tmp_path / "runs")
    assert output.count(f"Run folder: {folder}") == 2
    assert summary["ended"] == "all rounds done", output
    assert len(history) > 20
    assert summary["accuracy"] > 0.85
    assert summary["reduction_vs_dense_float32"] > 5
    for kind in ("payload", "message"):
        for way in ("down", "up"):
            key = f"{kind}_bytes_{way}"
            assert summary[key] == sum(row[key] for row in history)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("method", ["replication", "flora"])
def test_unequal_clients_take_part_in_a_simulation(flower, tmp_path, method):
    """Each Ray process trains adapters of several ranks in turn, on one backbone."""
    config = (
        f"method='{method}' num-server-rounds=3 low-rank=2 "
        f"high-rank-fraction=0.5 output-dir='{tmp_path / 'runs'}'"
    )
    output = flower.run("flwr", "run", ".", "--stream", "--run-config", config)
    folder, summary, history = results(tmp_path / "runs")
    assert summary["ended"] == "all rounds done", output
    assert not any(row["failures"] for row in history)
    ranks = [row["ranks"] for row in history[1:]]
    if method == "replication":
        assert ranks == [{"2": 2}, {"2": 1, "16": 1}, {"2": 1, "16": 1}]
    else:
        assert ranks == [{"1": 1, "4": 1}] * 3
    assert history[3]["loss"] < history[0]["loss"]
    assert (folder / "adapter" / "adapter_model.safetensors").exists()


def test_a_wrong_key_and_a_wrong_value_end_the_run_with_a_clear_error(flower):
    output = flower.run(
        "flwr", "run", ".", "--stream", "--run-config", "upload-density='abc'"
    )
    assert "upload-density must be a number in (0, 1]" in output
    assert flower.last_run()["status"] == "finished:failed"

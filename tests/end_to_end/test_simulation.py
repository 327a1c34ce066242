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

"""The README's first command in Ray, beside the same run in one process."""

import pytest

from flasc_flwr.app.runs.local_run import run_locally
from tests.end_to_end.processes import ROOT, Flower, readme_command, results, words

pytestmark = pytest.mark.slow

ROUNDS = 3


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path / "flwr")
    yield flower
    flower.stop_local_superlink()


def test_the_main_job_learns_with_a_fraction_of_the_bytes_in_ray_as_well(
    flower, tmp_path
):
    """The default job as it stands in the README: the run that users see first."""
    run_locally(ROOT, {"output-dir": str(tmp_path / "local")}, clients=20)
    folder, summary, expected = results(tmp_path / "local")
    assert summary["ended"] == "all rounds done"
    assert summary["accuracy"] > 0.85
    assert summary["reduction_vs_dense_float32"] > 5
    for kind in ("payload", "message"):
        for way in ("down", "up"):
            key = f"{kind}_bytes_{way}"
            assert summary[key] == sum(row[key] for row in expected)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()

    command = words(readme_command("Run it")[0].split(" && ")[1])
    assert command[:3] == ["flwr", "run", "."]
    settings = f"num-server-rounds={ROUNDS} output-dir='{tmp_path / 'ray'}'"
    output = flower.run(*command, "--run-config", settings)
    folder, summary, rows = results(tmp_path / "ray")
    assert output.count(f"Run folder: {folder}") == 2
    assert summary["ended"] == "all rounds done", output
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert [row["round"] for row in rows] == list(range(ROUNDS + 1))
    for row, other in zip(rows, expected, strict=False):
        assert row["replies"] == other["replies"]
        # Ten replies arrive in any order, and rounding depends on the order.
        for key in ("accuracy", "payload_bytes_down", "payload_bytes_up"):
            assert row[key] == pytest.approx(other[key], rel=0.01), key

"""The same app, unchanged, on a SuperLink with SuperNodes."""

import pytest

from tests.end_to_end.processes import Flower, results

pytestmark = pytest.mark.slow


def test_two_supernodes_complete_a_run(tmp_path):
    flower = Flower(tmp_path / "flwr")
    disable = "--disable-runtime-dependency-installation"
    first = "partition-id=0 num-partitions=2 upload-density=0.125"
    second = "partition-id=1 num-partitions=2"
    with (
        flower.superlink(disable) as connection,
        flower.supernode("node0", first),
        flower.supernode("node1", second),
    ):
        output = flower.run(
            *("flwr", "run", ".", connection, "--stream"),
            *("--run-config", f"num-server-rounds=2 fraction-train=1.0 lora-rank=4 "
              f"output-dir='{tmp_path / 'runs'}'"),
        )  # fmt: skip
        status = flower.last_run(connection)["status"]
    assert status == "finished:completed", output
    _, summary, history = results(tmp_path / "runs")
    assert [row["round"] for row in history] == [0, 1, 2]
    for row in history[1:]:
        assert row["replies"] == 2
        assert row["failures"] == []
        # One node sends a quarter, the other, by its own setting, an eighth.
        assert row["kept_up"] == pytest.approx((1 / 4 + 1 / 8) / 2, abs=1e-3)
    assert history[2]["loss"] < history[0]["loss"]

"""What aggregation rules cost in bytes, on the digits: messages as they travel."""

from pathlib import Path

import pytest

from flasc_flwr.app.reporting.run_files import read_history
from flasc_flwr.app.runs.local_run import run_locally

APP = Path(__file__).parents[2]


def bytes_of(tmp_path, method, **more):
    """Return message bytes down and up of a client in round 2, when B is not zero.

    All replies train and travel over a LocalGrid, which serializes every message.
    """
    folder = tmp_path / method
    settings = {
        "method": method,
        "num-server-rounds": 2,
        "fraction-train": 1.0,
        "evaluate-every": 2,
        "server-optimizer": "sgd",
        "output-dir": str(folder),
        **{key.replace("_", "-"): value for key, value in more.items()},
    }
    run_locally(APP, settings, 2)
    (run,) = folder.iterdir()
    row = read_history(run)[-1]
    assert row["replies"] == 2
    return row["message_bytes_down"] / 2, row["message_bytes_up"] / 2


@pytest.mark.exhaustive
def test_a_download_stays_one_adapter(tmp_path):
    """Where FedEx-LoRA's exactness sends several times that."""
    dense, up = bytes_of(tmp_path, "dense")
    for method in ("lora-fair", "alternating"):
        ours = bytes_of(tmp_path, method)
        assert abs(ours[0] / dense - 1) < 0.01, method
        assert abs(ours[1] / up - 1) < 0.01, method
    # It sends fewer components where these have enough of the energy.
    florist, _ = bytes_of(tmp_path, "florist", tiers="none")
    assert 0.3 * dense < florist < 1.01 * dense
    # Factors of two clients and the mean; with more clients it is the whole product.
    merged, _ = bytes_of(tmp_path, "fedex-lora")
    assert merged > 3.5 * dense
    # One of four segments, without positions: a quarter, and what is around it.
    _, quarter = bytes_of(tmp_path, "segments")
    assert 0.2 * up < quarter < 0.28 * up

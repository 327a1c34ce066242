"""Arguments, summary and errors of SparseTransport."""

import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from flasc_flwr import Flasc, SparseTransport


def test_the_summary_shows_the_transport_and_the_inner_strategy(logged):
    SparseTransport(FedAdam(eta=0.25), upload_density=1 / 16).summary()
    text = logged()
    assert "├──> Sparse transport:" in text
    assert "Density: download (0.5) | upload (0.0625)" in text
    assert "Inner strategy: FedAdam" in text
    assert "├──> FedOpt settings:" in text
    assert "eta (0.25)" in text


def test_densities_may_be_text(logged):
    SparseTransport(FedAvg(), download_density="1/4", upload_density="1/16").summary()
    assert "Density: download (0.25) | upload (0.0625)" in logged()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"download_density": 0}, "download_density must be .*, got 0"),
        ({"upload_density": 1.5}, "upload_density must be .*, got 1.5"),
        ({"values": "float8"}, "values must be one of 'auto', .*, got 'float8'"),
        ({"whole": "*.bias"}, r"whole must be a list of names .*, got '\*.bias'"),
        ({"inner": Flasc()}, "inner must be .*, got Flasc"),
        ({"inner": SparseTransport(FedAvg())}, "inner must be .*, got SparseTransport"),
        ({"inner": "FedAvg"}, "inner must be a strategy such as .*, got 'FedAvg'"),
    ],
)
def test_arguments_out_of_range_are_named_in_the_error(arguments, message):
    inner = arguments.pop("inner", None) or FedAvg()
    with pytest.raises(ValueError, match=message):
        SparseTransport(inner, **arguments)

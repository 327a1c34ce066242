"""Budgets in bytes: of a run, of a device, and which of them are served."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.budget import AUTO, Budget, on_grid, up_to_grid
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.served import served
from flasc_flwr.core.methods.table import METHODS, compose

LIMITED = Budget(download_bytes=5000, upload_bytes=400)
LAYOUT = Layout.of(
    {
        "q.lora_A.weight": np.zeros((4, 90), np.float32),
        "q.lora_B.weight": np.zeros((70, 4), np.float32),
        "classifier.weight": np.zeros((5, 30), np.float32),
    }
)


def run_budget(**given):
    unset = {"download_density": AUTO, "upload_density": AUTO}
    return Budget.of(**{**unset, "download_bytes": 0, "upload_bytes": 0, **given})


def test_a_density_that_is_not_given_lets_the_bytes_decide():
    assert run_budget() == Budget(download_density=1 / 4, upload_density=1 / 4)
    assert run_budget(upload_bytes=900) == Budget(
        download_density=1 / 4, upload_density=1.0, upload_bytes=900
    )
    both = run_budget(upload_bytes=900, upload_density="1/8")
    assert (both.upload_density, both.upload_bytes) == (1 / 8, 900)


def test_a_device_that_says_bytes_and_nothing_else_has_density_1_there():
    own = Budget().limited_by({"upload-bytes": 4000})
    assert own == Budget(upload_density=1.0, upload_bytes=4000 // 32 * 32)
    assert own.set_by_device == frozenset()
    both = Budget().limited_by({"upload-bytes": 96, "upload-density": "1/16"})
    assert both == Budget(upload_density=1 / 16, upload_bytes=96)


def test_a_devices_bytes_replace_the_runs_and_0_is_no_limit():
    assert LIMITED.limited_by({}) == LIMITED
    own = LIMITED.limited_by({"download-bytes": 8000, "upload-bytes": 0})
    assert (own.download_bytes, own.upload_bytes) == (8000, 0)
    assert own.upload_density == LIMITED.upload_density


@given(st.integers(1, 1 << 62))
def test_a_devices_bytes_are_rounded_down_to_few_values(most):
    own = Budget().limited_by({"download-bytes": most}).download_bytes
    assert most * 63 / 64 <= own <= most
    assert own >> max(0, own.bit_length() - 7) << max(0, own.bit_length() - 7) == own


@given(st.integers(1, 1 << 40))
def test_the_fewest_bytes_that_are_not_below_a_number_when_rounded(least):
    stated = up_to_grid(least)
    assert least <= on_grid(stated) == stated
    assert stated == least or on_grid(stated - 1) < least


def test_the_runs_own_bytes_are_not_rounded():
    run = Budget(upload_bytes=4001, upload_density=1.0)
    assert run.limited_by({"upload-bytes": 4001}) == run


@pytest.mark.parametrize("bad", [-1, 1.5, "4000", True, None, [4000], float("nan")])
@pytest.mark.parametrize("key", ["download-bytes", "upload-bytes"])
def test_bytes_out_of_range_are_named(key, bad):
    with pytest.raises(ValueError, match=f"{key} must be an integer >= 0, got"):
        Budget().limited_by({key: bad})
    with pytest.raises(ValueError, match=f"{key} must be an integer >= 0, got"):
        Budget(**{key.replace("-", "_"): bad})


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1))
def test_nobody_is_served_more_bytes_than_its_budget(limits):
    wanted = [Budget(download_bytes=down, upload_bytes=up) for down, up in limits]
    instead = served(wanted, 4)
    assert len(set(instead.values())) <= 4
    for budget, given_ in instead.items():
        for name in ("download_bytes", "upload_bytes"):
            most, got = getattr(budget, name), getattr(given_, name)
            assert most == 0 or 0 < got <= most


def allotment(method, most):
    return Allotment(method=method, most=most, decay=Decay())


@pytest.mark.parametrize("name", METHODS)
def test_bytes_hold_in_every_turn_of_every_method(name):
    method = METHODS[name]
    most = Budget(
        download_bytes=0 if method.merges else 900,
        upload_bytes=0 if method.uploads == "support" else 300,
    )
    one = allotment(method, most)
    own = one.of("0", {"upload-bytes": 250})
    for turn in (1, 2, 7):
        given_ = one.at(turn, own)
        assert given_.download_bytes == most.download_bytes
        assert given_.upload_bytes == 250 // 2 * 2
        assert not given_.prescribed


def test_what_a_method_cannot_limit_is_refused_at_the_start():
    with pytest.raises(
        ValueError,
        match="upload-bytes must be 0 with method 'flasc-shared-mask', .*, got 400",
    ):
        allotment(METHODS["flasc-shared-mask"], Budget(upload_bytes=400))
    merging = [METHODS["flora"], METHODS["fedex-lora"]]
    merging.append(compose("flasc", aggregation="stacking"))
    for method in merging:
        with pytest.raises(ValueError, match="download-bytes must be 0 .*, got 400"):
            allotment(method, Budget(download_bytes=400))

from dataclasses import dataclass

import pytest

from flasc_flwr.core.ranges import choice, fraction, integer, number
from flasc_flwr.core.settings import (
    REQUIRED,
    check,
    same_setting,
    setting,
    settings_of,
)


@dataclass(frozen=True, kw_only=True)
class Oven:
    heat: float = setting(REQUIRED, number("(0, 300]"), "heat", unit="C", off=0.0)
    fan: str = setting("low", choice("low", "high"), "fan", key="oven-fan")
    timer: int | None = setting(None, integer(1), "timer", off="auto")
    share: float = setting(0.5, fraction("(0, 1]"), "share of the rack")
    brand: str = ""

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class Kitchen:
    oven_fan: str = same_setting(Oven, "fan")


def test_fields_keep_their_defaults():
    assert (Oven.fan, Oven.timer, Oven.share) == ("low", None, 0.5)
    assert Oven(heat=180) == Oven(heat=180.0, fan="low", timer=None, share=0.5)
    with pytest.raises(TypeError, match="heat"):
        Oven()


def test_values_are_stored_in_their_proper_type():
    oven = Oven(heat=180, share="1/4")
    assert (oven.heat, oven.share) == (180.0, 0.25)
    assert type(oven.heat) is float


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heat": 0}, r"heat must be a number in \(0, 300\], got 0"),
        ({"heat": None}, "heat must be .*, got None"),
        ({"fan": "off"}, "oven-fan must be one of 'low', 'high', got 'off'"),
        ({"timer": 0}, "timer must be an integer >= 1, got 0"),
        ({"share": "5/4"}, "share must be .*, got '5/4'"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_key(settings, message):
    with pytest.raises(ValueError, match=message):
        Oven(**{"heat": 180} | settings)


def test_only_settings_are_listed():
    settings = settings_of(Oven)
    assert list(settings) == ["heat", "fan", "timer", "share"]
    assert [s.key for s in settings.values()] == ["heat", "oven-fan", "timer", "share"]
    assert settings_of(Oven(heat=1)) == settings


def test_another_dataclass_may_have_the_same_setting():
    assert settings_of(Kitchen)["oven_fan"] == settings_of(Oven)["fan"]
    assert Kitchen().oven_fan == "low"


def test_the_run_config_may_write_a_missing_value():
    heat, timer = settings_of(Oven)["heat"], settings_of(Oven)["timer"]
    assert (heat.run_config_default, timer.run_config_default) == (0.0, "auto")
    assert heat.run_config_range.check(0) == 0.0
    assert heat.run_config_range.check(False) is None
    assert timer.run_config_range.allowed == "'auto' or an integer >= 1"
    assert timer.from_run_config("auto") is None
    assert timer.to_run_config(None) == "auto"
    assert timer.from_run_config(3) == timer.to_run_config(3) == 3

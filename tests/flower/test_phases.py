"""Seconds are counted once."""

import time
from itertools import count

from flasc_flwr.flower.state.phases import PHASES, Phases, Stopwatch


def test_a_phase_within_another_is_its_own():
    phases = Phases()
    with phases.of("aggregate"):
        time.sleep(0.02)
        with phases.of("clients"):
            time.sleep(0.06)
        time.sleep(0.02)
    seconds = phases.seconds()
    assert seconds["seconds_clients"] >= 0.06
    assert seconds["seconds_aggregate"] >= 0.04
    parts = sum(seconds[f"seconds_{phase}"] for phase in PHASES)
    assert parts <= seconds["seconds"] + 0.004
    assert seconds["seconds_select"] == seconds["seconds_evaluate"] == 0


def test_a_phase_that_fails_is_left():
    phases = Phases()
    try:
        with phases.of("select"):
            raise ValueError
    except ValueError:
        time.sleep(0.02)
    seconds = phases.seconds()
    assert seconds["seconds_select"] < 0.02 <= seconds["seconds"]


def test_any_clock_and_any_phases_can_be_used():
    ticks = count()
    watch = Stopwatch(lambda: float(next(ticks)))  # a second for each look
    with watch.of("outer"):
        with watch.of("inner"):
            pass
        assert watch.by_phase() == {"": 1.0, "outer": 2.0, "inner": 1.0}
    assert watch.by_phase() == {"": 2.0, "outer": 3.0, "inner": 1.0}

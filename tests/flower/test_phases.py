"""Seconds are counted once."""

import time

from flasc_flwr.flower.state.phases import PHASES, Phases


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

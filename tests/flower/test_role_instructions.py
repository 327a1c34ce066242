"""Densities of roles in a message: what a device reads of them, and refuses."""

import pytest

from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.flower.instructions import Instructions
from flasc_flwr.flower.read_instructions import read_instructions

ROLES = RoleDensities(b=0.5, head=0.125)
ASKED = Instructions(density=0.25, value_format="int4+head=int8", roles=ROLES)


def test_instructions_are_read_as_they_were_written():
    assert Instructions(**read_instructions(dict(ASKED.to_record()))) == ASKED
    without = Instructions(density=0.25, value_format="int4").to_record()
    assert "role-densities" not in without


@pytest.mark.parametrize(
    "value", [[], [0.5], [1, 0, 0, 0], [2.0, 0.0, 0.0, 0.0], [-1.0] * 4, 0.5, "1/4"]
)
def test_other_densities_are_refused(value):
    record = dict(ASKED.to_record()) | {"role-densities": value}
    with pytest.raises(ValueError, match="role-densities must be 4 numbers"):
        read_instructions(record)


@pytest.mark.parametrize("value", ["int4+head=", "int4+head=int4", "x+head=int8"])
def test_other_formats_are_refused(value):
    record = dict(ASKED.to_record()) | {"value-format": value}
    with pytest.raises(ValueError, match="value-format must be one of"):
        read_instructions(record)

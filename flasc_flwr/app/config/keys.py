"""The keys of the run config: their sections, and where their values are held."""

from __future__ import annotations

from typing import NamedTuple

from flasc_flwr.app.config.adapter import AdapterSettings
from flasc_flwr.app.config.instruction import InstructionSettings
from flasc_flwr.app.config.method import MethodSettings
from flasc_flwr.app.config.run import RunSettings
from flasc_flwr.app.config.task import TaskSettings
from flasc_flwr.app.config.training import LocalPrivacySettings, TrainingSettings
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.settings import Setting, settings_of
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.sampling import Sampling


class Section(NamedTuple):
    """A group of settings, with its title in the documentation.

    `member` is the attribute of `RunConfig` that holds it; empty for settings that are
    attributes themselves.
    """

    title: str
    group: type
    member: str = ""


SECTIONS = (
    Section("Task and data", TaskSettings),
    Section("Instruction tuning", InstructionSettings),
    Section("Adapter", AdapterSettings),
    Section("Method", MethodSettings),
    Section("Densities of roles", RoleDensities, "roles"),
    Section("Density decay", Decay, "decay"),
    Section("Training on a client", TrainingSettings),
    Section("Run", RunSettings),
    Section("Cohorts", Sampling, "sampling"),
    Section("Bounds on replies", Guard, "guard"),
    Section("Early stop", Stop, "stop"),
    Section("Differential privacy of each client", Privacy, "privacy"),
    Section("Local differential privacy", LocalPrivacySettings),
)


class Place(NamedTuple):
    """Where `RunConfig` holds the value of a key: `member`.`name`, or `name`."""

    member: str
    name: str
    setting: Setting


def _places() -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for section in SECTIONS:
        for name, declared in settings_of(section.group).items():
            place = Place(section.member, name, declared)
            found.setdefault(declared.key, []).append(place)
    return found


PLACES = _places()
"""Every key with the places that hold its value. The first one describes the key."""

"""The run config: all settings of a run, parsed from its flat keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from flasc_flwr.app.config.adapter import AdapterSettings
from flasc_flwr.app.config.effect import require_effect
from flasc_flwr.app.config.instruction import InstructionSettings
from flasc_flwr.app.config.keys import PLACES, SECTIONS, Place
from flasc_flwr.app.config.method import MethodSettings
from flasc_flwr.app.config.run import RunSettings
from flasc_flwr.app.config.task import TaskSettings
from flasc_flwr.app.config.training import LocalPrivacySettings, TrainingSettings
from flasc_flwr.app.config.tuner import require_tuner
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.privacy import Privacy
from flasc_flwr.core.settings import check, settings_of
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.guard import Guard
from flasc_flwr.flower.clients.sampling import Sampling
from flasc_flwr.flower.privacy.requirements import require_local, require_private


class ConfigError(ValueError):
    """A run config that cannot be run: the key, what is allowed, and the value."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(
    TaskSettings,
    InstructionSettings,
    AdapterSettings,
    MethodSettings,
    TrainingSettings,
    RunSettings,
    LocalPrivacySettings,
):
    """A run's settings, checked.

    Settings of the application are attributes: `lora_rank` is the key ``lora-rank``.
    Those that the strategy takes in groups are members.

    Attributes
    ----------
    roles : RoleDensities
        Densities of roles of their own.
    decay : Decay
        How fast the densities decay.
    sampling : Sampling
        How cohorts are drawn; its seed is the run's.
    guard : Guard
        Bounds on replies.
    stop : Stop
        When the run ends early.
    privacy : Privacy, optional
        Differential privacy of each client; None if it is off.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    decay: Decay = Decay()
    sampling: Sampling = Sampling()
    guard: Guard = Guard()
    stop: Stop = Stop()
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)
        object.__setattr__(self, "sampling", replace(self.sampling, seed=self.seed))

    @classmethod
    def parse(cls, run_config: Mapping[str, Any]) -> RunConfig:
        """Check a run config and return its settings.

        Parameters
        ----------
        run_config : Mapping[str, Any]
            Values by kebab-case key; a missing key has its default.

        Raises
        ------
        ConfigError
            If a key is unknown, a value is not allowed, or settings do not fit
            together. Lists every such key, with what is allowed and its value.
        """
        checked: dict[str, Any] = {}
        wrong = []
        for key, value in run_config.items():
            if key not in PLACES:
                wrong.append(_unknown(key, value))
                continue
            allowed = PLACES[key][0].setting.run_config_range
            checked[key] = allowed.check(value)
            if checked[key] is None:
                wrong.append(allowed.refusal(key, value))
        if not wrong:
            try:
                return cls._of(checked)
            except ValueError as error:
                wrong.append(str(error))
        raise ConfigError("The run config is wrong:\n  " + "\n  ".join(wrong))

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> RunConfig:
        arguments: dict[str, Any] = {}
        members: dict[str, dict[str, Any]] = {
            section.member: {} for section in SECTIONS if section.member
        }
        for key, value in values.items():
            for place in PLACES[key]:
                target = members[place.member] if place.member else arguments
                target[place.name] = value
        config = cls(
            roles=RoleDensities(**_given(RoleDensities, members["roles"])),
            decay=Decay(**_given(Decay, members["decay"])),
            sampling=Sampling(**members["sampling"]),
            guard=Guard(**members["guard"]),
            stop=Stop(**members["stop"]),
            privacy=_privacy(members["privacy"]),
            **arguments,
        )
        config.require_task()
        config.require_adapter(config.compose())
        require_tuner(config, config.compose())
        config.require_instruction(config.task)
        config._require_honest()
        # Raises if the method cannot keep to the budget.
        allotment = Allotment(
            method=config.compose(), most=config.budget(), decay=config.decay
        )
        require_effect(config, config.guard, allotment)
        if config.compose().measures_bases and config.num_server_rounds < 2:
            raise ValueError(
                "num-server-rounds must be >= 2 with core-basis 'gradient', whose "
                f"first round measures bases, got {config.num_server_rounds}"
            )
        if not config.sampling.fraction_train:
            raise ValueError("fraction-train must be above 0 to train, got 0.0")
        return config

    def _require_honest(self) -> None:
        """Refuse settings with which privacy would not be what it says.

        Raises
        ------
        ValueError
            If there is one.
        """
        method = self.compose()
        if self.local_dp_epsilon:
            require_local(method, fraction_evaluate=self.sampling.fraction_evaluate)
        if self.privacy:
            require_private(
                method,
                self.privacy,
                weighting=self.weighting,
                sampling=self.sampling,
                min_replies=self.guard.min_replies,
            )

    @property
    def has_rank(self) -> bool:
        """Whether an adapter of rank `lora_rank` is trained: LoRA, or cores."""
        return self.compose().tunes.adapts and not self.peft_config

    def shared_by_resumed(self) -> dict[str, Any]:
        """Return the settings in which a run and the one that it resumes are equal.

        These are all but how long it runs, how many nodes it needs, what it leaves
        behind, and where.
        """
        return {
            key: value
            for key, value in self.to_dict().items()
            if not PLACES[key][0].setting.may_change
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by their kebab-case keys; `parse` is the inverse."""
        return {key: self._value(places[0]) for key, places in PLACES.items()}

    def _value(self, place: Place) -> Any:
        holder = getattr(self, place.member) if place.member else self
        if holder is None:  # privacy is off
            return place.setting.run_config_default
        return place.setting.to_run_config(getattr(holder, place.name))


def _given(group: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a group for what the run config says."""
    settings = settings_of(group)
    return {n: settings[n].from_run_config(value) for n, value in values.items()}


def _privacy(given: Mapping[str, Any]) -> Privacy | None:
    """Return the settings of privacy; None if no key turns it on."""
    settings = settings_of(Privacy)
    values = {name: s.run_config_default for name, s in settings.items()} | dict(given)
    if not values["clip_norm"] and not values["noise_multiplier"]:
        for name, declared in settings.items():
            if values[name] != declared.run_config_default:
                raise ValueError(
                    f"{declared.key} is {values[name]!r} without a dp-clip-norm, so "
                    "nothing is private: set a dp-clip-norm above 0"
                )
        return None
    return Privacy(**_given(Privacy, values))


def _unknown(key: str, value: Any) -> str:
    close = get_close_matches(key, PLACES, n=1)
    if close:
        hint = f"did you mean {close[0]}? got {value!r}"
    else:
        hint = f"got {value!r}; the keys are " + ", ".join(PLACES)
    return f"{key} is not a key of the run config, {hint}"

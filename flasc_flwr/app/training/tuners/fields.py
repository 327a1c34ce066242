"""The fields of a PEFT config, checked by name, type and range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_type_hints

from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassDefinitionError
from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner

from flasc_flwr.core.printable import printable, why

_OF_THE_RUN = (
    *("peft_type", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("base_model_name_or_path", "revision"),
)
"""Fields that the run sets itself; what a saved config has in them is not used."""

_REFUSED = {
    "ADALORA": "it changes ranks in training by a schedule of its own",
    "POLY": "it needs a task's number in every batch",
    "SHADOW": "it runs a second network beside the model",
    "XLORA": "it mixes adapters that were trained before",
}
"""Tuners that cannot be federated as they are, and why."""

_OTHER_DEFAULTS = ("LN_TUNING", "TRAINABLE_TOKENS")
"""Tuners of other modules than linear ones, which PEFT chooses by itself."""


def peft_config_of(
    given: Mapping[str, Any], name: str, targets: str | list[str], head: list[str]
) -> PeftConfig:
    """Return the PEFT config of a run.

    Parameters
    ----------
    given : Mapping[str, Any]
        The fields in the file.
    name : str
        How errors call the file.
    targets : str or list[str]
        Modules to adapt if the file does not say.
    head : list[str]
        Modules that the run trains fully.

    Raises
    ------
    ValueError
        If a field is unknown or has a wrong value, or the tuner cannot be federated;
        the message names the file and the field.
    """
    kind = given.get("peft_type")
    make = _class_of(kind, name)
    if kind == "LORA":
        raise ValueError(_instead_of_lora(given, name))
    hints, known = get_type_hints(make), {each.name: each for each in fields(make)}
    wanted: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {_listed(known)}"
            raise ValueError(
                f"peft-config {name}: {printable(key, 60)!r} is not a field of {kind} "
                f"in the installed PEFT, {hint}"
            )
        if key in _OF_THE_RUN or value == known[key].default:
            continue
        wanted[key] = _checked(key, value, hints[key], name)
    saved = wanted.pop("modules_to_save", None)
    if saved is not None and set(saved) != set(head):
        raise ValueError(
            f"peft-config {name}: modules_to_save must be left out or {head!r}, which "
            f"saved-modules says, got {saved!r}"
        )
    if "modules_to_save" in known and head:
        wanted["modules_to_save"] = list(head)
    if "target_modules" in known and kind not in _OTHER_DEFAULTS:
        wanted.setdefault("target_modules", targets)
    if kind == "IA3":
        # Without it, PEFT chooses both by the model's type.
        wanted.setdefault("feedforward_modules", [])
    try:
        return make(**wanted)
    except Exception as error:
        raise ValueError(f"peft-config {name}: {why(error)}") from error


def _class_of(kind: Any, name: str) -> type[PeftConfig]:
    names = {each.value: each for each in PEFT_TYPE_TO_CONFIG_MAPPING}
    if not isinstance(kind, str) or kind not in names:
        tunable = ", ".join(sorted(k for k in names if not _reason(k, names[k])))
        raise ValueError(
            f"peft-config {name}: peft_type must be one of {tunable}, got "
            f"{printable(kind, 60)!r}"
        )
    if reason := _reason(kind, names[kind]):
        raise ValueError(
            f"peft-config {name}: peft_type {kind!r} cannot be federated: {reason}"
        )
    return PEFT_TYPE_TO_CONFIG_MAPPING[names[kind]]


def _reason(kind: str, peft_type: Any) -> str | None:
    """Return why a type of tuner cannot be federated; None if it may."""
    if kind in _REFUSED:
        return _REFUSED[kind]
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type)
    if not (isinstance(tuner, type) and issubclass(tuner, BaseTuner)):
        return "it adds to the model's input, and not to its weights"
    return None


def _checked(key: str, value: Any, hint: Any, name: str) -> Any:
    """Return a field's value; an integer may stand for a number."""
    tried = [value]
    if type(value) is int:
        tried.append(float(value))
    for each in tried:
        try:
            type_validator(key, each, hint)
        except TypeError as error:
            wrong = error
        except StrictDataclassDefinitionError:  # a hint of another kind
            return value
        else:
            return each
    said = str(wrong).splitlines()[0]
    raise ValueError(f"peft-config {name}: {printable(said, 200)}")


def _instead_of_lora(given: Mapping[str, Any], name: str) -> str:
    """Return the refusal of a LoRA config, with the settings that say the same."""
    keys = {
        "r": "lora-rank",
        "lora_alpha": "lora-alpha",
        "lora_dropout": "lora-dropout",
        "use_rslora": "use-rslora",
        "use_dora": "use-dora",
        "target_modules": "lora-targets",
        "modules_to_save": "saved-modules",
    }
    defaults = vars(LoraConfig())
    same, without = [], []
    for key, value in given.items():
        if key in _OF_THE_RUN or key not in defaults:
            continue
        if key in keys:
            if value not in (None, defaults[key]) or key in ("r", "lora_alpha"):
                same.append(f"{keys[key]} = {_as_toml(key, value)}")
        elif value != defaults[key]:
            without.append(printable(key, 40))
    # PEFT's defaults are others than the run config's.
    same += [
        f"{keys[key]} = {_as_toml(key, defaults[key])}"
        for key in ("r", "lora_alpha")
        if key not in given
    ]
    lacks = f"; the run config has no {', '.join(without)}" if without else ""
    return (
        f"peft-config must be '' for LoRA, whose settings are in the run config, got "
        f"{name} of type LORA: set instead {', '.join(same)}{lacks}"
    )


def _as_toml(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if key == "lora_alpha" and isinstance(value, int):
        value = float(value)
    return printable(repr(value), 200)


def _listed(names: Any) -> str:
    return ", ".join(sorted(set(names) - set(_OF_THE_RUN)))

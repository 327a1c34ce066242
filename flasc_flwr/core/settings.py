"""Settings: dataclass fields that carry their range, their help text and their key.

A dataclass declares each setting once, with `setting`, and calls `check` in its
``__post_init__``. The run config, its block in ``pyproject.toml`` and
``docs/configuration.md`` are made from the same declarations.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from flasc_flwr.core.ranges import Range, either

REQUIRED: Any = MISSING
"""The default of a setting that has none."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one setting.

    Attributes
    ----------
    default : Any
        The default of the field, or `REQUIRED`.
    range : Range
        What it may be.
    help : str
        What it does, in a few words.
    key : str
        Its name in the run config and in errors, such as ``max-update-norm``.
    unit : str
        Unit of a number, such as ``MB``.
    used_by : str
        Which methods or tasks use it; empty for all.
    may_change : bool
        Whether a run that resumes another may have a different value.
    off : Any
        What the run config says for a setting that is not given, where the field has
        no default or None.
    """

    default: Any
    range: Range
    help: str
    key: str
    unit: str = ""
    used_by: str = ""
    may_change: bool = False
    off: Any = None

    @property
    def run_config_default(self) -> Any:
        """The default in the run config."""
        return self.default if self.off is None else self.off

    @property
    def run_config_range(self) -> Range:
        """What the run config may say."""
        known = self.off is None or self.range.check(self.off) is not None
        return self.range if known else either(self.off, self.range)

    def from_run_config(self, value: Any) -> Any:
        """Return the field's value for what the run config says."""
        return None if self.default is None and value == self.off else value

    def to_run_config(self, value: Any) -> Any:
        """Return what the run config says for the field's value."""
        return self.off if value is None else value


def setting(
    default: Any,
    range: Range,
    help: str,
    *,
    key: str = "",
    unit: str = "",
    used_by: str = "",
    may_change: bool = False,
    off: Any = None,
) -> Any:
    """Declare a field of a dataclass as a setting; for the arguments, see `Setting`.

    `default` is `REQUIRED` for a field without one. `key` is by default the field's
    name with dashes.
    """
    declared = Setting(
        default=default,
        range=range,
        help=help,
        key=key,
        unit=unit,
        used_by=used_by,
        may_change=may_change,
        off=off,
    )
    return field(default=default, metadata={"setting": declared})


def settings_of(group: Any) -> dict[str, Setting]:
    """Return the settings of a dataclass, or of an instance, by the fields' names."""
    found = {}
    for each in fields(group):
        if declared := each.metadata.get("setting"):
            key = declared.key or each.name.replace("_", "-")
            found[each.name] = replace(declared, key=key)
    return found


def same_setting(group: Any, name: str) -> Any:
    """Declare a field as the same setting as the field `name` of another dataclass."""
    declared = settings_of(group)[name]
    return field(default=declared.default, metadata={"setting": declared})


def check(group: Any) -> None:
    """Check every setting of a dataclass instance, and store it in its proper type.

    Raises
    ------
    ValueError
        If one is out of range; the message gives its key, what is allowed and the
        value.
    """
    for name, declared in settings_of(group).items():
        value = getattr(group, name)
        if value is not None or declared.default is not None:
            # The group may be frozen.
            checked = declared.range.require(declared.key, value)
            object.__setattr__(group, name, checked)

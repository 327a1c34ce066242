"""Write the run config's block in ``pyproject.toml`` and ``docs/configuration.md``.

``python -m flasc_flwr.app.config.generate`` writes both in the source tree;
with ``--check`` it only compares, and exits with 1 if one of them is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from flasc_flwr.app.config.keys import PLACES, SECTIONS, Section
from flasc_flwr.core.json_lines import as_json
from flasc_flwr.core.methods.method import Method
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.settings import Setting, settings_of

COMMAND = "python -m flasc_flwr.app.config.generate"
BEGIN = f"# Begin of the run config, written by: {COMMAND}\n"
END = "# End of the run config.\n"

_WIDTH = 88
_COMMENT = 30
"""Column where comments start."""
_HARD_SPACE = "\N{NO-BREAK SPACE}"

_INTRODUCTION = f"""\
# Configuration

<!-- Written by: {COMMAND} -->

For someone who looks for a key of the run config, its range or its default. Set keys
with `--run-config "lora-rank=8 method='dense'"`, with a TOML file
(`--run-config conf/digits-flasc-4.toml`), or in `pyproject.toml` under
`[tool.flwr.app.config]`. A value that is not allowed stops the run before any client is
contacted. `flasc-flwr check "lora-rank=8"` checks keys without running them.

A density may be a number or a fraction in quotes, such as `'1/16'`. A device can set
its own `download-density`, `upload-density`, `download-bytes`, `upload-bytes` and
`lora-rank` in `--node-config`.

Where a section names a class, a project that uses the library passes the same settings
with the same ranges and defaults through that class.
"""

_NEXT = """
## Where to go next

- [Your own model and data](tasks.md) and [Methods](methods.md) explain the keys that
  need more than a line.
- [Command line](command-line.md#check): `flasc-flwr check` names a wrong key.
- [Deploy on devices](deploy.md): what a device sets for itself.
"""


def sections() -> Iterator[tuple[Section, dict[str, Setting]]]:
    """Yield each section with the settings that it describes, by key."""
    for section in SECTIONS:
        described = {
            declared.key: declared
            for name, declared in settings_of(section.group).items()
            if PLACES[declared.key][0][:2] == (section.member, name)
        }
        yield section, described


def block() -> str:
    """Return the block ``[tool.flwr.app.config]``, with its markers."""
    lines = [BEGIN + "[tool.flwr.app.config]"]
    for section, described in sections():
        lines.append(f"\n# {section.title}")
        for key, declared in described.items():
            lines += _with_comment(key, declared)
    return "\n".join([*lines, END])


def with_block(pyproject: str) -> str:
    """Return the text of ``pyproject.toml`` with the block up to date.

    Raises
    ------
    ValueError
        If the two markers are not there.
    """
    before, begin, rest = pyproject.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"pyproject.toml must have the lines {BEGIN!r} and {END!r}")
    return before + block() + after


def page() -> str:
    """Return ``docs/configuration.md``."""
    parts = [_INTRODUCTION]
    for section, described in sections():
        parts.append(f"## {section.title}\n")
        if section.member:
            group = section.group
            names = ", ".join(settings_of(group))
            parts.append(f"Class: `{group.__module__}.{group.__name__}({names})`\n")
        parts.append("| key | default | allowed | unit | what it does | used by |")
        parts.append("|---|---|---|---|---|---|")
        parts += [_row(key, declared) for key, declared in described.items()]
        parts.append("")
    changing = ", ".join(f"`{k}`" for k, p in PLACES.items() if p[0].setting.may_change)
    parts.append("## Kinds of methods\n")
    parts += [f"- {kind}: {', '.join(names)}" for kind, names in _kinds().items()]
    parts.append("\n## Resuming a run\n")
    parts.append(f"A run that resumes another may change these keys only: {changing}.")
    parts.append(_NEXT.rstrip("\n"))
    return "\n".join(parts) + "\n"


def _kinds() -> dict[str, list[str]]:
    """Return the methods of each kind that the column "used by" names."""
    tests: dict[str, Callable[[Method], bool]] = {
        "methods with a sparse download": lambda m: m.download_density is None,
        "methods with a sparse upload": lambda m: m.upload_density is None,
        "methods with unequal ranks": lambda m: (
            m.tiers == "rank" or m.rank_assignment == "validation"
        ),
    }
    return {
        kind: [f"`{name}`" for name, method in METHODS.items() if test(method)]
        for kind, test in tests.items()
    }


def _with_comment(key: str, declared: Setting) -> list[str]:
    line = f"{key} = {_toml(declared.run_config_default)}"
    words = declared.help
    allowed = re.sub("(integer|number) ", "", _allowed(declared))
    if allowed not in ("text", "true or false"):
        words += f"; {allowed}"
    # Intervals stay on one line.
    words = re.sub(r"(?<=[>=(\[\w]) (?=\d)|(?<=\d,) ", _HARD_SPACE, words)
    width = _WIDTH - _COMMENT - len("# ")
    first, *others = wrap(words, width, break_on_hyphens=False)
    lines = [
        f"{line:<{_COMMENT - 1}} # {first}",
        *(f"{'':<{_COMMENT}}# {other}" for other in others),
    ]
    return [line.replace(_HARD_SPACE, " ") for line in lines]


def _row(key: str, declared: Setting) -> str:
    cells = (
        f"`{key}`",
        f"`{_toml(declared.run_config_default)}`",
        _allowed(declared),
        declared.unit,
        declared.help,
        declared.used_by or "all",
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _allowed(declared: Setting) -> str:
    """Return what is allowed, shorter than in an error."""
    text = declared.run_config_range.allowed.replace("'", '"')
    text = re.sub(r"\ban? (integer|number)", r"\1", text)
    return re.sub(r"in ([(\[])(\d+), inf\)", _at_least, text)


def _at_least(interval: re.Match[str]) -> str:
    sign = ">" if interval[1] == "(" else ">="
    return f"{sign} {interval[2]}"


def _toml(value: Any) -> str:
    return repr(value) if isinstance(value, float) else as_json(value)


def main(arguments: list[str]) -> int:
    """Write both files, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args(arguments).check
    root = Path(__file__).parents[3]
    project, docs = root / "pyproject.toml", root / "docs" / "configuration.md"
    before = project.read_text()
    wanted = {project: with_block(before), docs: page()}
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text() != text
    ]
    for path in stale:
        if check:
            print(f"{path.name} is out of date: {COMMAND}", file=sys.stderr)
        else:
            path.write_text(wanted[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

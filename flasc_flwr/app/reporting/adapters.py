"""The adapters in a run's folder: the last one, and those of rounds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_OF_ROUND = re.compile(r"adapter-round-(\d+)")


def adapter_of(run: Path, round: int | None = None) -> Path:
    """Return the folder of a run's adapter after a round, or of the final one."""
    return run / ("adapter" if round is None else f"adapter-round-{round:04d}")


def rounds_with_adapter(run: Path) -> dict[int, Path]:
    """Return the folders of a run's adapters after rounds, by round in order."""
    found = {
        int(match[1]): path
        for path in run.glob("adapter-round-*")
        if (match := _OF_ROUND.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def available_adapters(run: Path) -> str:
    """Return which adapters a run's folder has, in words."""
    rounds = [f"round {number}" for number in rounds_with_adapter(run)]
    last = ["the last one"] if adapter_of(run).is_dir() else []
    return ", ".join(rounds + last) or "none (the run has not finished)"


def drop_adapters(run: Path, after: int) -> None:
    """Delete a run's final adapter, and those of rounds after a round."""
    later = (path for n, path in rounds_with_adapter(run).items() if n > after)
    for folder in (*later, adapter_of(run)):
        shutil.rmtree(folder, ignore_errors=True)

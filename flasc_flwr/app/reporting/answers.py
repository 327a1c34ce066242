"""Answers to test prompts, kept in a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flasc_flwr.app.reporting.run_files import read_answers
from flasc_flwr.core.json_lines import as_json

FILE = "answers.jsonl"


def add_answers(folder: Path, round: int, rows: Sequence[dict[str, Any]]) -> None:
    """Add a round's answers to a run's folder, one line each."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(as_json({"round": round, **row}) + "\n")


def last_answered(folder: Path) -> int | None:
    """Return the last round with answers; None if there is none."""
    return max((row["round"] for row in read_answers(folder)), default=None)


def kept_answers(folder: Path, last: int) -> str:
    """Return the lines of the answers up to a round."""
    rows = (row for row in read_answers(folder) if row["round"] <= last)
    return "".join(as_json(row) + "\n" for row in rows)


def is_due(every: int, last: int | None, now: int, rounds: int) -> bool:
    """Whether prompts are to be answered after round `now`.

    Parameters
    ----------
    every : int
        ``evaluate-generate``: rounds from one time to the next; 0 is never.
    last : int or None
        When they were answered last.
    now : int
        The round; 0 is before the first.
    rounds : int
        The number of rounds.
    """
    if not every or now == last:
        return False
    return last is None or now == rounds or now // every > last // every

"""A run's answers side by side: what a report shows of them."""

from __future__ import annotations

from typing import Any

from flasc_flwr.app.reporting.run_files import read_answers
from flasc_flwr.app.reporting.runs import SavedRun
from flasc_flwr.core.printable import printable, printable_lines

_MOST_PROMPTS = 20
_MOST_ROUNDS = 6
_LONGEST = 3000
"""Longest text on the page, in characters."""

_MEASURES = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}


def side_by_side(run: SavedRun) -> dict[str, Any] | None:
    """Return what a page shows of a run's answers; None if there are none.

    Of many rounds, the first, the last and some between are shown. All texts are
    printable; the page's template escapes them.
    """
    rows = read_answers(run.folder)
    if not rows:
        return None
    rounds = _some(sorted({row["round"] for row in rows}))
    by_example: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_example.setdefault(row["example"], {})[row["round"]] = row
    return {
        "name": printable(run.folder.name),
        "count": len(by_example),
        "scores": [_scores(rows, round) for round in rounds],
        "questions": [
            _question(answers, rounds)
            for answers in list(by_example.values())[:_MOST_PROMPTS]
        ],
    }


def _some(rounds: list[int]) -> list[int]:
    if len(rounds) <= _MOST_ROUNDS:
        return rounds
    last = _MOST_ROUNDS - 1
    return [rounds[n * (len(rounds) - 1) // last] for n in range(_MOST_ROUNDS)]


def _title(round: int) -> str:
    return "Before" if round == 0 else f"Round {round}"


def _scores(rows: list[dict[str, Any]], round: int) -> dict[str, str]:
    """Return the mean scores of a round, as a row of a table."""
    cells = {"round": _title(round)}
    measures = {row["measure"] for row in rows}
    for measure, words in _MEASURES.items():
        scores = [
            row["score"]
            for row in rows
            if row["measure"] == measure and row["round"] == round
        ]
        if measure in measures:
            mean = f"{sum(scores) / len(scores):.3f}" if scores else "-"
            cells[words] = mean
    return cells


def _question(answers: dict[int, dict[str, Any]], rounds: list[int]) -> dict[str, Any]:
    row = next(iter(answers.values()))
    domain = printable(row["domain"], 60)
    shown = [{"title": "Reference", "text": _text(row["reference"])}]
    for round in rounds:
        if answer := answers.get(round):
            score = f"{_MEASURES[answer['measure']]} {answer['score']:.2f}"
            title = f"{_title(round)}: {score}"
            shown.append({"title": title, "text": _text(answer["answer"])})
    return {
        "title": f"Test row {row['example']}" + (f", {domain}" if domain else ""),
        "prompt": _text(row["prompt"]),
        "answers": shown,
    }


def _text(text: str) -> str:
    return printable_lines(text.strip(), _LONGEST)

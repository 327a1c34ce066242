"""Scores of answers: exact match of a final answer, or ROUGE-L."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

_BETWEEN_DIGITS = re.compile(r"(?<=\d),(?=\d)")


class Graded(NamedTuple):
    """The score of an answer, in [0, 1], and what it measures."""

    measure: str
    value: float


def require_scorer() -> None:
    """Check that ROUGE-L can be computed.

    Raises
    ------
    ValueError
        If its package is not installed.
    """
    if find_spec("rouge_score") is None:
        raise ValueError(
            "evaluate-generate must be 0 without the package rouge-score "
            "(pip install 'flasc-flwr[app,llm]')"
        )


def grade(answer: str, reference: str, pattern: str) -> Graded:
    """Return the score of an answer.

    Parameters
    ----------
    answer, reference : str
        What the model wrote, and the response of the row.
    pattern : str
        Regular expression of the final answer, or empty. The last match that is not
        empty counts, and of it the first group if there is one.

    Returns
    -------
    Graded
        ``exact_match`` where the reference has a final answer, else ``rouge_l``: the
        F-measure of the longest common subsequence of words (Lin, 2004), of Latin
        letters and digits.
    """
    expected = final_answer(reference, pattern)
    if expected is not None:
        return Graded("exact_match", float(final_answer(answer, pattern) == expected))
    return Graded(
        "rouge_l", float(_rouge().score(reference, answer)["rougeL"].fmeasure)
    )


def final_answer(text: str, pattern: str) -> str | None:
    """Return the final answer in a text, without commas in numbers; None without one.

    Upper and lower case, spaces and a full stop at the end make no difference. A match
    of nothing is not an answer: such as ``.*`` has at the end of every text.
    """
    found = re.finditer(pattern, text) if pattern else ()
    answers = [_plain(match[1] if match.re.groups else match[0]) for match in found]
    return next((answer for answer in reversed(answers) if answer), None)


def _plain(answer: str | None) -> str:
    words = " ".join(_BETWEEN_DIGITS.sub("", answer or "").split())
    return words.rstrip(".").casefold()


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])

"""Scores: how many of a batch's predictions are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Count(NamedTuple):
    """What a batch adds to an accuracy and to a mean loss.

    Attributes
    ----------
    right : Tensor
        How many predictions are right. A tensor, so that nothing waits for a GPU.
    of : Tensor or int
        Of how many.
    losses : Tensor or int
        Over how many predictions the batch's own loss is a mean.
    """

    right: torch.Tensor
    of: torch.Tensor | int
    losses: torch.Tensor | int


Score = Callable[[torch.Tensor, torch.Tensor], Count]
"""Takes the logits and the labels of a batch."""

IGNORED = -100
"""Label of a position that does not count, as in transformers."""


def classes(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count examples by their one class: logits (n, classes), labels (n,)."""
    return Count((logits.argmax(-1) == labels).sum(), len(labels), len(labels))


def next_tokens(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count next tokens: logits (n, length, tokens), labels (n, length)."""
    following = labels[:, 1:]
    counts = following != IGNORED
    right = (logits[:, :-1].argmax(-1) == following) & counts
    return Count(right.sum(), counts.sum(), counts.sum())


def many_classes(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count examples of many classes as micro-F1 does: 2 TP of 2 TP + FP + FN.

    Logits and labels (n, classes); a class is predicted where its logit is above 0, a
    probability of one half.
    """
    told, true = logits > 0, labels > 0.5
    hits = (told & true).sum()
    return Count(2 * hits, told.sum() + true.sum(), len(labels))

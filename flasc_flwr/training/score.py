"""Scores: how many of a batch's predictions are right."""

from __future__ import annotations

from collections.abc import Callable

import torch

Score = Callable[[torch.Tensor, torch.Tensor], tuple[float, int]]
"""Takes logits and labels; gives how many predictions are right, and of how many."""

IGNORED = -100
"""Label of a position that does not count, as in transformers."""


def classes(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Count examples by their one class: logits (n, classes), labels (n,)."""
    return float((logits.argmax(-1) == labels).sum()), len(labels)


def next_tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Count next tokens: logits (n, length, tokens), labels (n, length)."""
    following = labels[:, 1:]
    counts = following != IGNORED
    right = (logits[:, :-1].argmax(-1) == following) & counts
    return float(right.sum()), int(counts.sum())


def many_classes(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Count examples of many classes as micro-F1 does: 2 TP of 2 TP + FP + FN.

    Logits and labels (n, classes); a class is predicted where its logit is above 0, a
    probability of one half.
    """
    told, true = logits > 0, labels > 0.5
    hits = int((told & true).sum())
    return 2.0 * hits, int(told.sum()) + int(true.sum())

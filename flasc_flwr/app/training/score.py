"""Scores: how many predictions of a batch are correct."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Count(NamedTuple):
    """Counts of a batch, for the accuracy and the mean loss.

    Attributes
    ----------
    right : Tensor
        Number of correct predictions. A tensor, so that nothing waits for a GPU.
    of : Tensor or int
        Number of predictions.
    losses : Tensor or int
        Number of predictions that the batch's loss is a mean over.
    """

    right: torch.Tensor
    of: torch.Tensor | int
    losses: torch.Tensor | int


Score = Callable[[torch.Tensor, torch.Tensor], Count]
"""A function of the logits and the labels of a batch."""

IGNORED = -100
"""Label of a position that is not predicted, as in transformers."""


def single_label(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count examples with one class: logits (n, classes), labels (n,)."""
    return Count((logits.argmax(-1) == labels).sum(), len(labels), len(labels))


def next_tokens(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count next tokens: logits (n, length, tokens), labels (n, length)."""
    following = labels[:, 1:]
    counts = following != IGNORED
    right = (logits[:, :-1].argmax(-1) == following) & counts
    return Count(right.sum(), counts.sum(), counts.sum())


def multi_label(logits: torch.Tensor, labels: torch.Tensor) -> Count:
    """Count examples with several classes as micro-F1 does: 2 TP of 2 TP + FP + FN.

    Logits and labels (n, classes). A class is predicted if its logit is above 0, which
    is a probability above 1/2.
    """
    predicted, true = logits > 0, labels > 0.5
    hits = (predicted & true).sum()
    return Count(2 * hits, predicted.sum() + true.sum(), len(labels))

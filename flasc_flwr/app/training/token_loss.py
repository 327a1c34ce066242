"""The loss of a language model without all of its logits at once.

The logits of 512 tokens over a vocabulary of 49,152 take 100 MB, of which a step holds
four copies. Here the output layer sees only positions that are predicted, a piece of
them at a time, and computes each piece again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.score import IGNORED, Count

_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Most logits of a piece: 8 MB on a CPU; on a GPU larger pieces are faster."""

_ROUNDING = 1e-4
"""Largest relative difference of two losses that is rounding."""

_Parts = tuple[Callable[..., Any], Callable[[torch.Tensor], torch.Tensor]]

_PARTS: WeakKeyDictionary[Model, _Parts] = WeakKeyDictionary()
"""Of models for which it was checked: what comes before the output layer, and it."""


@torch.no_grad()
def check_parts(model: Model, batch: Batch) -> bool:
    """Check that a model's loss is that of its output layer's logits, and remember it.

    Some models scale or cap logits afterwards, or add to the loss: theirs is computed
    as they do.

    Parameters
    ----------
    model : Model
        A language model in evaluation mode.
    batch : Batch
        Some inputs and their ``labels``.
    """
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    base = getattr(inner, inner.base_model_prefix, None)
    head = inner.get_output_embeddings()
    if base is inner or not callable(base) or not callable(head):
        return False
    try:
        logits = head(base(**_inputs(batch)).last_hidden_state)
        _PARTS[model] = (base, head)
        pieces = token_loss(model, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model of another kind, whatever its error
        pieces = None
    if pieces is not None:
        own = model(**batch)
        close = abs(pieces[0] - own.loss.float()) <= _ROUNDING * abs(own.loss.float())
        # The same computation, so that caps are seen where they change little.
        if close and torch.equal(logits, own.logits):
            return True
    _PARTS.pop(model, None)
    return False


def token_loss(model: Model, batch: Batch) -> tuple[torch.Tensor, Count] | None:
    """Return the mean loss of the next tokens, and how many are predicted.

    The same as the model's own loss up to the order of the sums. None if it was not
    checked that it is.

    Parameters
    ----------
    model : Model
        A language model.
    batch : Batch
        Its inputs, and ``labels`` of shape (n, length).
    """
    parts = _PARTS.get(model)
    if parts is None:
        return None
    base, head = parts
    hidden = base(**_inputs(batch)).last_hidden_state[:, :-1]
    following = batch["labels"][:, 1:]
    counts = following != IGNORED
    hidden, targets = hidden[counts], following[counts]
    size = max(1, _LOGITS.get(hidden.device.type, 1 << 21) // _vocabulary(model))
    total = hidden.new_zeros((), dtype=torch.float32)
    right = torch.zeros((), dtype=torch.int64, device=hidden.device)
    pieces = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    for piece, theirs in pieces:
        if torch.is_grad_enabled():
            loss, hits = checkpoint(_piece, head, piece, theirs, use_reentrant=False)
        else:
            loss, hits = _piece(head, piece, theirs)
        total, right = total + loss, right + hits
    count = counts.sum()
    return total / count, Count(right, count, count)


def _piece(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses, and how many of the tokens are predicted."""
    logits = head(hidden).float()
    hits = (logits.detach().argmax(-1) == targets).sum()
    return cross_entropy(logits, targets, reduction="sum"), hits


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def _vocabulary(model: Model) -> int:
    return int(model.config.get_text_config().vocab_size)

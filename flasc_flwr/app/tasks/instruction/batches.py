"""Batches of conversations: padded, or packed end to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.instruction.rows import TARGETS, TOKENS
from flasc_flwr.app.tasks.tables import LABELS
from flasc_flwr.app.training.device import on_device
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.score import IGNORED
from flasc_flwr.core.printable import why

_ROUNDING = 1e-3
"""Largest relative change of outputs that is still rounding."""


def padded(rows: Mapping[str, Any], pad: int) -> Batch:
    """Return rows as one batch, each padded on the right to the longest."""
    ids, targets = _tensors(rows, TOKENS), _tensors(rows, TARGETS)
    sequence = torch.nn.utils.rnn.pad_sequence
    mask = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": sequence(ids, batch_first=True, padding_value=pad),
        "attention_mask": sequence(mask, batch_first=True),
        LABELS: sequence(targets, batch_first=True, padding_value=IGNORED),
    }


def packed(rows: Mapping[str, Any], pad: int, length: int) -> Batch:
    """Return rows laid end to end in as few sequences of `length` tokens as fit.

    Positions start at 0 in every row: transformers takes that for the begin of a text,
    and lets no token attend to a text before. The sequences have as many tokens as the
    longest of them; what is left of the others is a text of padding.
    """
    ids, targets = _tensors(rows, TOKENS), _tensors(rows, TARGETS)
    bins = _bins([len(row) for row in ids], length)
    longest = max(sum(len(ids[i]) for i in members) for members in bins)
    batch = {
        "input_ids": torch.full((len(bins), longest), pad),
        "position_ids": torch.zeros(len(bins), longest, dtype=torch.long),
        LABELS: torch.full((len(bins), longest), IGNORED),
    }
    for number, members in enumerate(bins):
        at = 0
        for member in members:
            end = at + len(ids[member])
            batch["input_ids"][number, at:end] = ids[member]
            batch["position_ids"][number, at:end] = torch.arange(end - at)
            batch[LABELS][number, at:end] = targets[member]
            at = end
        batch["position_ids"][number, at:] = torch.arange(longest - at)
    return batch


def require_apart(model: Model, pad: int, config: RunConfig) -> None:
    """Check that rows in one sequence do not see each other.

    Raises
    ------
    ValueError
        If a row has another result behind another row than by itself.
    """
    one, other = [5, 6, 7], [8, 6, 5, 7]
    tokens = [[min(token, _most(model)) for token in row] for row in (one, other)]
    rows = {TOKENS: tokens, TARGETS: tokens}
    model.eval()
    with torch.no_grad():
        try:
            together = model(**on_device(packed(rows, pad, 7), model)).logits[0]
            alone = [
                model(input_ids=torch.tensor([row], device=together.device)).logits[0]
                for row in tokens
            ]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                "packing must be false with a model that takes no position_ids, got "
                f"true and {config.model!r}: {why(error)}"
            ) from error
    # The longer row is first in the sequence.
    change = (together - torch.cat(alone[::-1])).abs().max()
    if change > _ROUNDING * together.abs().max():
        raise ValueError(
            "packing must be false with a model that reads beyond the begin of a text "
            f"in its sequence, got true and {config.model!r}"
        )


def _most(model: Model) -> int:
    return int(model.config.get_text_config().vocab_size) - 1


def _tensors(rows: Mapping[str, Any], name: str) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.long) for row in rows[name]]


def _bins(sizes: list[int], length: int) -> list[list[int]]:
    """Return rows by sequence: the longest first, each where it first fits."""
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((n for n, left in enumerate(room) if left >= sizes[row]), None)
        if place is None:
            bins.append([])
            room.append(length)
            place = len(bins) - 1
        bins[place].append(row)
        room[place] -= sizes[row]
    return bins

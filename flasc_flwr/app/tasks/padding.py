"""How texts of a batch become equally long without changing what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO
from typing import Any

import torch
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.tables import LABELS
from flasc_flwr.app.tasks.text import inputs_of, tokens_of
from flasc_flwr.app.training.device import on_device
from flasc_flwr.app.training.examples import Batch
from flasc_flwr.app.training.lora import Model
from flasc_flwr.flower.compat import log

_ROUNDING = 1e-3
"""Largest relative change of outputs that is still rounding."""

_ONE, _SEVERAL = "a", "a b c d e f"


class Padding:
    """Pads batches of tokenised texts.

    Most models are padded on the right, to the longest text of the batch. XLNet, which
    classifies by the last token, needs it on the left. Where padding changes a result
    in any case (FNet reads it, convolutions reach into it), all texts are padded to
    ``max-length``, so that no result depends on the other texts of its batch.

    Parameters
    ----------
    tokenizer : Any
        The model's tokenizer.
    model : PreTrainedModel
        Which of the tokenizer's outputs are used.
    config : RunConfig
        The longest text.
    """

    def __init__(
        self, tokenizer: Any, model: PreTrainedModel, config: RunConfig
    ) -> None:
        self._tokenizer = tokenizer
        self._names = inputs_of(model, tokenizer)
        self._length = config.max_length
        self._whole = False

    def __call__(self, rows: Mapping[str, Any]) -> Batch:
        """Return the inputs for tokenised texts with their classes."""
        inputs = {name: rows[name] for name in self._names if name in rows}
        how = {"padding": "max_length", "max_length": self._length}
        batch = self._tokenizer.pad(
            inputs, return_tensors="pt", **(how if self._whole else {})
        )
        return dict(batch) | {LABELS: torch.tensor(rows[LABELS])}

    def probe(self, *texts: str) -> Batch:
        """Return the inputs for some texts of class 0."""
        tokens = tokens_of(self._tokenizer, list(texts), self._length)
        return self({**tokens, LABELS: [0] * len(texts)})

    def settle(self, model: Model, config: RunConfig) -> None:
        """Choose how a model's texts are padded, by what it returns."""
        if config.quantize != "none":
            return  # its rounding depends on the batch
        for side, whole in (("right", False), ("left", False), ("right", True)):
            self._tokenizer.padding_side, self._whole = side, whole
            if not whole and self._changes_nothing(model):
                break
        if side == "left" or whole:
            log(
                INFO,
                "Texts for model %r are padded %s",
                config.model,
                f"to max-length ({self._length})" if whole else "on the left",
            )

    @torch.no_grad()
    def _changes_nothing(self, model: Model) -> bool:
        """Whether a text has the same result alone and in a batch."""
        model.eval()
        try:
            texts = (_ONE, _SEVERAL)
            together, *alone = (
                model(**on_device(self.probe(*some), model)).logits
                for some in (texts, texts[:1], texts[1:])
            )
        except torch.OutOfMemoryError:
            raise
        except Exception:
            # Convolutions need several tokens; other reasons are found by the checks.
            return False
        change = (together - torch.cat(alone)).abs().max()
        return bool(change <= _ROUNDING * together.abs().max())

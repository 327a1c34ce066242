"""A text classifier on the mean of the token vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooledClassifier(PreTrainedModel):  # type: ignore[no-untyped-call]
    """An encoder, the mean of its last vectors, and one linear layer.

    The mean is scaled to length sqrt(hidden size), so that its entries have the size
    that the layer's initial weights expect. Sentence encoders were trained with a mean,
    and learn much faster with it than with a pooler of the first token.

    Parameters
    ----------
    config : PretrainedConfig
        The encoder's, with ``num_labels`` classes.
    encoder : PreTrainedModel, optional
        The backbone (default: a new one).
    """

    config_class = PretrainedConfig
    base_model_prefix = "encoder"
    # The encoder chooses its implementation of attention.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(
        self, config: PretrainedConfig, encoder: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.encoder = encoder or AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        # PEFT reads these from the outermost module.
        self.is_loaded_in_8bit = getattr(encoder, "is_loaded_in_8bit", False)
        self.is_loaded_in_4bit = getattr(encoder, "is_loaded_in_4bit", False)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 0))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits of shape (n, classes), and with labels the loss."""
        output = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, **inputs
        )
        mask = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)
        mean = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
        pooled = normalize(mean, dim=-1) * self.config.hidden_size**0.5
        logits = self.classifier(pooled)
        loss = None if labels is None else cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

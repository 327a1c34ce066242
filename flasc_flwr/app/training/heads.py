"""A text classifier on the mean of the token vectors.

This file is complete: it is saved beside the adapters that need it, and loads them
where flasc-flwr is not installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class MeanPooledClassifier(PreTrainedModel):  # type: ignore[no-untyped-call]
    """An encoder, the mean of its last vectors, and one linear layer.

    The mean is scaled to length sqrt(width), so that its entries have the size that
    the layer's initial weights expect. Sentence encoders were trained with a mean, and
    learn much faster with it than with a pooler of the first token.

    Parameters
    ----------
    config : PretrainedConfig
        That of the encoder's model, with ``num_labels`` classes and the ``mean_width``
        of its vectors.
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
        self.encoder = encoder or encoder_of(AutoModel.from_config(config))  # type: ignore[no-untyped-call]
        # PEFT reads these from the outermost module.
        self.is_loaded_in_8bit = getattr(encoder, "is_loaded_in_8bit", False)
        self.is_loaded_in_4bit = getattr(encoder, "is_loaded_in_4bit", False)
        self.width = int(getattr(config, "mean_width", 0) or config.hidden_size)
        self.classifier = nn.Linear(self.width, int(config.num_labels or 0))
        self.post_init()  # type: ignore[no-untyped-call]

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Return what the encoder has chosen."""
        return requested_experts or "eager"

    @classmethod
    def around(cls, model: PreTrainedModel, classes: int) -> MeanPooledClassifier:
        """Return a classifier with a new layer around a model, or its encoder."""
        config, encoder = model.config, encoder_of(model)
        config.num_labels = classes
        config.mean_width = _width(encoder)
        return cls(config, encoder)

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
        pooled = normalize(mean, dim=-1) * self.width**0.5
        logits = self.classifier(pooled)
        loss = None if labels is None else cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def load(folder: str | Path, model: str | None = None, **settings: Any) -> Any:
    """Load what was saved with this head: an adapter, or a whole model.

    Parameters
    ----------
    folder : str or Path
        Where it was saved.
    model : str, optional
        Where an adapter's model is (default: as its config says).
    **settings : Any
        Arguments of ``AutoModel.from_pretrained`` for an adapter's model.

    Returns
    -------
    PeftModel or MeanPooledClassifier
        The model in evaluation mode; its outputs have ``logits``.
    """
    config_file = Path(folder) / "adapter_config.json"
    if not config_file.is_file():
        config = AutoConfig.from_pretrained(folder)
        return MeanPooledClassifier.from_pretrained(folder, config=config).eval()  # type: ignore[no-untyped-call]
    from peft import PeftModel
    from safetensors import safe_open

    saved = json.loads(config_file.read_text("utf-8"))
    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as tensors:
        head = [n for n in tensors.keys() if n.endswith("classifier.weight")]  # noqa: SIM118
        if not head:
            raise ValueError(f"the adapter must have a classifier, got {folder!r}")
        classes = tensors.get_slice(head[0]).get_shape()[0]
    base = AutoModel.from_pretrained(
        model or saved["base_model_name_or_path"],
        **{"dtype": torch.float32, **settings},
    )
    classifier = MeanPooledClassifier.around(base, classes)
    return PeftModel.from_pretrained(classifier, str(folder)).eval()


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder of an encoder-decoder, and any other model as it is."""
    if not model.config.is_encoder_decoder:
        return model
    encoder: PreTrainedModel = model.get_encoder()
    return encoder


@torch.no_grad()
def _width(encoder: PreTrainedModel) -> int:
    """Return the length of an encoder's vectors, whatever its config calls it."""
    # Several tokens: some encoders pool neighbours.
    ones = torch.ones(1, 8, dtype=torch.long, device=encoder.device)
    encoder.eval()  # type: ignore[no-untyped-call]
    output = encoder(input_ids=ones, attention_mask=ones)
    return int(output.last_hidden_state.shape[-1])

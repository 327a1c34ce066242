"""Backbones in 4 or 8 bits, on a CPU or a GPU, with bitsandbytes."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.device import device_of
from flasc_flwr.app.training.targets import head_of
from flasc_flwr.core.methods.method import Tunes


def quantization(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that quantize; none without.

    4 bits are QLoRA's normal floats (arXiv 2305.14314), of which products are computed
    in bfloat16 on a GPU, and in float32 on a CPU.

    Raises
    ------
    ValueError
        If bitsandbytes is missing, the method changes the backbone, or the adapter
        cannot be trained on it.
    """
    if config.quantize == "none":
        return {}
    method = config.compose()
    if method.tunes == Tunes.FULL or method.merges:
        raise ValueError(
            f"quantize must be 'none' with method {config.method!r}, which changes the "
            f"backbone, got {config.quantize!r}"
        )
    if config.quantize == "8bit" and config.use_dora:
        # As of PEFT 0.21 and bitsandbytes 0.50: it fails in the first forward pass.
        raise ValueError(
            "quantize must be 'none' or '4bit' with use-dora, since PEFT cannot "
            "compute DoRA's lengths from 8-bit weights, got '8bit'"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "quantize must be 'none' without the package bitsandbytes, got "
            f"{config.quantize!r}: install it (pip install bitsandbytes)"
        )
    # It says of every product that inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    device = device_of(config)
    bits: dict[str, Any] = {f"load_in_{config.quantize}": True}
    if config.quantize == "4bit":
        computing = torch.bfloat16 if device.type == "cuda" else torch.float32
        bits |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": computing}
    place = torch.cuda.current_device() if device.type == "cuda" else "cpu"
    return {
        "quantization_config": transformers.BitsAndBytesConfig(**bits),  # type: ignore[no-untyped-call]
        "device_map": {"": place},
    }


def not_quantized(auto: Any, model_config: PretrainedConfig) -> list[str]:
    """Return the names of modules that are never quantized: the head and the output.

    By itself, transformers leaves out the last module only if it has no bias: heads
    such as BERT's would be quantized, and those have no gradients.

    Parameters
    ----------
    auto : type
        Class of transformers that loads the model.
    model_config : PretrainedConfig
        The model's config.
    """
    with torch.device("meta"):
        model = auto.from_config(model_config)
    output = model.get_output_embeddings()
    named = model.named_modules()
    return head_of(model, "auto") + [n for n, m in named if m is output]


def keep_differentiable(model: nn.Module) -> None:
    """Keep 4-bit weights in the form through which bitsandbytes has gradients.

    On CPUs with bfloat16 instructions, a module in evaluation mode, as the backbone is
    always, would pack its weights at its first input without a gradient. Products with
    packed weights have none: what lies before them would be trained wrong.
    """
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)


_PACKS = "support_avx512bf16_for_cpu"

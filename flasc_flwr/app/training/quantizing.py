"""Backbones in 4 or 8 bits, on a CPU or a GPU, with bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import transformers

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.device import device_of
from flasc_flwr.core.methods.method import Tunes


def quantization(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that quantize; none without.

    4 bits are QLoRA's normal floats (arXiv 2305.14314), of which products are computed
    in bfloat16 on a GPU, and in float32 on a CPU.

    Raises
    ------
    ValueError
        If bitsandbytes is missing, or the method changes the backbone.
    """
    if config.quantize == "none":
        return {}
    method = config.compose()
    if method.tunes == Tunes.FULL or method.merges:
        raise ValueError(
            f"quantize must be 'none' with method {config.method!r}, which changes the "
            f"backbone, got {config.quantize!r}"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "quantize must be 'none' without the package bitsandbytes, got "
            f"{config.quantize!r}: install it (pip install bitsandbytes)"
        )
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

"""Loading pretrained backbones."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import transformers
from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.sources import from_hub, model_path
from flasc_flwr.app.training.device import device_of, place
from flasc_flwr.app.training.lora import Model, prepare
from flasc_flwr.app.training.targets import head_of, targets_of


def pretrained(kind: str, config: RunConfig, **settings: Any) -> PreTrainedModel:
    """Load a backbone, its new head initialised by the run's seed.

    Parameters
    ----------
    kind : str
        Class of transformers, such as ``AutoModelForCausalLM``.
    config : RunConfig
        Which model, and whether its weights are quantized.
    **settings : Any
        For ``from_pretrained``.

    Raises
    ------
    ValueError
        If it cannot be had, or quantized here; it says what to do.
    """
    path = model_path(config.model)
    if config.quantize != "none":
        settings |= _quantized(config)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model: PreTrainedModel = from_hub(
            "model",
            config.model,
            lambda: getattr(transformers, kind).from_pretrained(path, **settings),
        )
    if config.quantize != "none":
        # What is not quantized becomes float32.
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    else:
        # Whatever it was saved in: parameters and updates are float32.
        model.float()  # type: ignore[no-untyped-call]
    return model


def with_adapter(backbone: PreTrainedModel, config: RunConfig) -> Model:
    """Put the adapter on a backbone, and both where they compute."""
    model = prepare(
        backbone,
        config,
        target_modules=targets_of(backbone, config.lora_targets),
        head=head_of(backbone, config.saved_modules),
    )
    if config.quantize == "none":
        place(model, config)
    else:
        # A quantized model is where it belongs, and must not be moved: its new head is
        # not.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(device_of(config))
    if config.compile:
        model.compile()
    return model


def _quantized(config: RunConfig) -> dict[str, Any]:
    if device_of(config).type != "cuda":
        raise ValueError(
            f"quantize is {config.quantize!r}, which needs a GPU: allowed without one "
            "is 'none'"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"quantize is {config.quantize!r}, which needs the package bitsandbytes: "
            "install it, or set quantize = 'none'"
        )
    bits: dict[str, Any] = {f"load_in_{config.quantize}": True}
    if config.quantize == "4bit":
        bits |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    return {
        "quantization_config": transformers.BitsAndBytesConfig(**bits),  # type: ignore[no-untyped-call]
        "device_map": {"": torch.cuda.current_device()},
    }

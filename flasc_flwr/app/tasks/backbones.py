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
from flasc_flwr.app.training.device import device_of, move_to_device
from flasc_flwr.app.training.lora import Model, make_trainable
from flasc_flwr.app.training.targets import head_of, targets_of


def load_backbone(kind: str, config: RunConfig, **settings: Any) -> PreTrainedModel:
    """Load a backbone and initialise its new head from the run's seed.

    Parameters
    ----------
    kind : str
        Class of transformers, such as ``AutoModelForCausalLM``.
    config : RunConfig
        Which model, and whether to quantize it.
    **settings : Any
        Arguments of ``from_pretrained``.

    Raises
    ------
    ValueError
        If it cannot be loaded or quantized; the message says what to do.
    """
    path = model_path(config.model)
    if config.quantize != "none":
        settings |= _quantization(config)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model: PreTrainedModel = from_hub(
            "model",
            config.model,
            lambda: getattr(transformers, kind).from_pretrained(path, **settings),
        )
    if config.quantize != "none":
        # Weights that are not quantized become float32.
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    else:
        # Parameters and updates are float32, whatever format was saved.
        model.float()  # type: ignore[no-untyped-call]
    return model


def add_adapter(backbone: PreTrainedModel, config: RunConfig) -> Model:
    """Add the adapter to a backbone and move the model to its device."""
    model = make_trainable(
        backbone,
        config,
        target_modules=targets_of(backbone, config.lora_targets),
        head=head_of(backbone, config.saved_modules),
    )
    if config.quantize == "none":
        move_to_device(model, config)
    else:
        # A quantized model is on its device already and must not be moved, except for
        # its new head.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(device_of(config))
    if config.compile:
        model.compile()
    return model


def _quantization(config: RunConfig) -> dict[str, Any]:
    if device_of(config).type != "cuda":
        raise ValueError(
            f"quantize must be 'none' without a GPU, got {config.quantize!r}"
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "quantize must be 'none' without the package bitsandbytes, got "
            f"{config.quantize!r}"
        )
    bits: dict[str, Any] = {f"load_in_{config.quantize}": True}
    if config.quantize == "4bit":
        bits |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    return {
        "quantization_config": transformers.BitsAndBytesConfig(**bits),  # type: ignore[no-untyped-call]
        "device_map": {"": torch.cuda.current_device()},
    }

"""Loading pretrained backbones."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.checkpoints import load_checkpoint
from flasc_flwr.app.training.device import device_of, move_to_device
from flasc_flwr.app.training.lora import Model, make_trainable
from flasc_flwr.app.training.targets import head_of, targets_of
from flasc_flwr.core.methods.method import Tunes


def load_backbone(
    kind: str, config: RunConfig, classes: int | None = None
) -> PreTrainedModel:
    """Load a backbone and initialise its new head from the run's seed.

    Parameters
    ----------
    kind : str
        Class of transformers, such as ``AutoModelForCausalLM``.
    config : RunConfig
        Which model, and whether to quantize it.
    classes : int, optional
        Number of classes of its head (default: it has none).

    Raises
    ------
    ValueError
        If it cannot be loaded or quantized; the message says what to do.
    """
    settings = _quantization(config) if config.quantize != "none" else {}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = load_checkpoint(kind, config, classes, **settings)
    if config.quantize != "none":
        # Weights that are not quantized become float32.
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    else:
        # Parameters and updates are float32, whatever format was saved.
        model.float()  # type: ignore[no-untyped-call]
    return model


def add_adapter(
    backbone: PreTrainedModel, config: RunConfig, check: Callable[[Model], None]
) -> Model:
    """Add the adapter to a backbone and move the model to its device.

    Parameters
    ----------
    backbone : PreTrainedModel
        The model; it becomes part of the result.
    config : RunConfig
        The run's settings.
    check : Callable[[Model], None]
        Checks that the model fits the task, as :func:`.probing.check_outputs` does.

    Raises
    ------
    ValueError
        If the model is not one for the task.
    """
    lora = config.compose().tunes == Tunes.LORA
    model = make_trainable(
        backbone,
        config,
        target_modules=targets_of(backbone, config.lora_targets) if lora else [],
        head=head_of(backbone, config.saved_modules),
    )
    if config.quantize == "none":
        move_to_device(model, config)
    else:
        # A quantized model is on its device already and must not be moved, except for
        # its new head.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(device_of(config))
    check(model)
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

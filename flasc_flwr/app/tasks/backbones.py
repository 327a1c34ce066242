"""Loading pretrained backbones."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from transformers import PreTrainedModel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.checkpoints import load_checkpoint
from flasc_flwr.app.training.adapting import make_trainable
from flasc_flwr.app.training.device import device_of, move_to_device
from flasc_flwr.app.training.lora import Model
from flasc_flwr.app.training.precision import keep_at, kept_precision, train_in_float32
from flasc_flwr.app.training.quantizing import keep_differentiable, quantization
from flasc_flwr.app.training.recomputing import recompute_layers
from flasc_flwr.app.training.targets import head_of, targets_of

_DTYPE = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
"""What transformers calls the precision to load in; 4.56 was the first with both."""


def load_backbone(
    kind: str, config: RunConfig, classes: int | None = None
) -> PreTrainedModel:
    """Load a backbone and initialise its new head from the run's seed.

    Parameters
    ----------
    kind : str
        Class of transformers, such as ``AutoModelForCausalLM``.
    config : RunConfig
        Which model, in which precision, and whether to quantize it.
    classes : int, optional
        Number of classes of its head (default: it has none).

    Raises
    ------
    ValueError
        If it cannot be loaded or quantized; the message says what to do.
    """
    wanted = kept_precision(config)
    settings = {_DTYPE: wanted or "auto", **quantization(config)}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = load_checkpoint(kind, config, classes, **settings)
    keep_at(model, wanted)
    keep_differentiable(model)
    if config.gradient_checkpointing:
        recompute_layers(model)
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
    lora = config.compose().tunes.adapts
    head = head_of(backbone, config.saved_modules)
    train_in_float32(backbone, head)
    model = make_trainable(
        backbone,
        config,
        target_modules=targets_of(backbone, config.lora_targets) if lora else [],
        head=head,
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

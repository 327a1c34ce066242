"""The device and the precision of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.examples import Batch

if TYPE_CHECKING:
    from flasc_flwr.app.training.lora import Model


def device_of(config: RunConfig) -> torch.device:
    """Return the device that the run config names; ``auto`` is a GPU if there is one.

    Raises
    ------
    ValueError
        If it names a GPU and there is none.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device must be 'cpu' or 'auto' where torch finds no GPU, got 'cuda'"
        )
    return torch.device(config.device)


def move_to_device(model: nn.Module, config: RunConfig) -> None:
    """Move a model to the device that the run config names."""
    model.to(device_of(config))


def on_device(batch: Batch, model: Model) -> Batch:
    """Return a batch on the model's device."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def autocast(config: RunConfig, model: Model) -> AbstractContextManager[object]:
    """Return a context that computes in the precision of the run config.

    Parameters, gradients and updates stay float32.
    """
    if config.precision == "float32":
        return nullcontext()
    device = next(model.parameters()).device
    return _bfloat16(device.type)


@contextmanager
def _bfloat16(device_type: str) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device_type, dtype=torch.bfloat16))
        if device_type == "cpu" and torch.is_grad_enabled():
            # On CPUs, the backward pass of torch's fused attention is seven times
            # slower in bfloat16 than in float32; its unfused one is faster.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextmanager
def memory_advice() -> Iterator[None]:
    """Explain which settings to change when a GPU runs out of memory.

    Raises
    ------
    RuntimeError
        In place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            "the GPU is out of memory: lower batch-size or max-length, set quantize = "
            "'4bit', or increase client-resources-num-gpus, so that fewer clients "
            f"share it ({error})"
        ) from error

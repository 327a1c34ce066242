"""Where and in which precision a model computes."""

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
    """Return the device that the run config names; ``auto`` takes a GPU if it can.

    Raises
    ------
    ValueError
        If a GPU is asked for and there is none.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda', but torch sees no GPU: allowed is 'cpu' or 'auto'"
        )
    return torch.device(config.device)


def place(model: nn.Module, config: RunConfig) -> None:
    """Put a model where the run config wants it."""
    model.to(device_of(config))


def on_device(batch: Batch, model: Model) -> Batch:
    """Return a batch where the model is."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def autocast(config: RunConfig, model: Model) -> AbstractContextManager[object]:
    """Return a context that computes in the run config's precision.

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
            # The backward pass of torch's fused attention for CPUs takes seven times as
            # long in bfloat16 as in float32; its plain one gains like the rest.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextmanager
def memory_advice() -> Iterator[None]:
    """Say what to change where a GPU runs out of memory.

    Raises
    ------
    RuntimeError
        In place of torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            "the GPU is out of memory: lower batch-size or max-length, set "
            "quantize = '4bit', or let fewer clients share it with a larger "
            f"client-resources-num-gpus ({error})"
        ) from error

"""The device and the precision of a model."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
    """Return a batch on the model's device, with images in the backbone's precision."""
    device = next(model.parameters()).device
    return {
        name: tensor.to(device, model.dtype)
        if tensor.is_floating_point() and name != "labels"
        else tensor.to(device)
        for name, tensor in batch.items()
    }


def autocast(config: RunConfig, model: Model) -> AbstractContextManager[object]:
    """Return a context that computes in the precision of the run config.

    What is trained, its gradients and updates stay float32. A backbone that is kept in
    bfloat16 computes in it.
    """
    if config.precision == "float32":
        return nullcontext()
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16)


def training_attention(
    config: RunConfig, model: Model
) -> AbstractContextManager[object]:
    """Return a context for whole steps, in which attention trains fast in bfloat16.

    On CPUs, the backward pass of torch's fused attention is seven times slower in
    bfloat16 than in float32; its unfused one is faster. The context includes the
    backward pass, where layers may be computed again: it must be by the same kernel.
    """
    half = config.precision == "bfloat16" or model.dtype == torch.bfloat16
    if half and next(model.parameters()).device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library can.

    Building a model and its tokenizer leaves 20 MB of it, which training cannot use.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


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
            "the GPU is out of memory: lower batch-size (and raise "
            "gradient-accumulation) or max-length, set gradient-checkpointing = true "
            "or quantize = '4bit', or increase client-resources-num-gpus, so that "
            f"fewer clients share it ({error})"
        ) from error

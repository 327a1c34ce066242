"""Greedy answers: the most likely token after each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.fit import positions
from flasc_flwr.app.training.device import autocast, memory_advice
from flasc_flwr.app.training.lora import Model


def room_for_prompts(
    model: Model, new: int, name: str = "generate-tokens"
) -> int | None:
    """Return how long a prompt may be before `new` tokens; None if there is no limit.

    `name` is what an error calls that number.

    Raises
    ------
    ValueError
        If the model cannot read as many tokens.
    """
    most = positions(_inner(model))
    if most is None:
        return None
    if new >= most:
        raise ValueError(
            f"{name} must be below the {most} tokens that the model can read, got {new}"
        )
    return most - new


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: RunConfig,
    *,
    new: int,
    ends: Sequence[int],
    pad: int,
    streamer: Any = None,
) -> list[list[int]]:
    """Return the tokens that a model writes after prompts, without the end token.

    Parameters
    ----------
    model : Model
        The model; it is left in evaluation mode.
    prompts : Sequence[Sequence[int]]
        Tokens of each prompt; they are one batch, padded on the left.
    config : RunConfig
        The precision.
    new : int
        The most tokens to write.
    ends : Sequence[int]
        Tokens that end an answer.
    pad : int
        The token of padding.
    streamer : Any, optional
        A streamer of transformers, for one prompt.
    """
    model.eval()
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(row)) + list(row) for row in prompts]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=new,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(ends) or None,
        pad_token_id=pad,
    )
    inner: Any = _inner(model)
    with _only(inner, greedy), memory_advice(), autocast(config, model):
        written = inner.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=greedy,
            streamer=streamer,
        )
    return [_until(row[longest:].tolist(), ends) for row in written]


@contextmanager
def _only(inner: Any, config: GenerationConfig) -> Iterator[None]:
    """Take a model's own generation config away: its penalties, or that it has none."""
    own = getattr(inner, "generation_config", None)
    inner.generation_config = config
    try:
        yield
    finally:
        inner.generation_config = own


def _inner(model: Model) -> Any:
    """Return the model inside an adapter; the adapter's modules are part of it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    end = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:end]

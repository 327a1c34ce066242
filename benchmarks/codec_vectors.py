"""The vectors that the codec is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flasc_flwr.core.layout import Layout, Vector

GPT2_SIZE = 2_374_656


@dataclass(frozen=True, eq=False)
class Case:
    """A vector to select from: its name, layout if it has one, and entries."""

    name: str
    layout: Layout | None
    vector: Vector


def synthetic(distribution: str, size: int) -> Case:
    """Return independent values: ``gauss`` or ``laplace``, so an even mask."""
    rng = np.random.default_rng(0)
    if distribution == "gauss":
        return Case("gauss", None, rng.standard_normal(size, np.float32))
    return Case("laplace", None, rng.laplace(size=size).astype(np.float32))


def adapters() -> Iterator[Case]:
    """Yield adapters as PEFT begins them: on GPT-2 small, and on ViT-B/16.

    The backbones are built from their configurations, without weights: what PEFT
    draws for the factors does not depend on them.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import (
        GPT2Config,
        GPT2ForSequenceClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    torch.manual_seed(0)
    gpt2 = GPT2ForSequenceClassification(GPT2Config(num_labels=20))
    vit = ViTForImageClassification(ViTConfig(num_labels=10))
    # The names of ViT's projections differ between versions of transformers.
    query_value = r".*\.(query|value|q_proj|v_proj)"
    for name, backbone, modules, head in (
        ("gpt2", gpt2, r".*\.(c_attn|c_proj|c_fc)", "score"),
        ("vit", vit, query_value, "classifier"),
    ):
        lora = LoraConfig(
            r=16,
            target_modules=modules,
            modules_to_save=[head],
            fan_in_fan_out=name == "gpt2",
        )
        state = get_peft_model_state_dict(get_peft_model(backbone, lora))
        arrays = {key: tensor.numpy() for key, tensor in state.items()}
        layout = Layout.of(arrays)
        yield Case(f"{name} round 0", layout, layout.flatten(arrays))


def recorded(path: Path) -> Iterator[Case]:
    """Yield vectors recorded in a real run: an NPZ file of named adapter arrays.

    Keys are ``what/name``; the arrays of equal `what` make one vector.
    """
    with np.load(path) as file:
        rounds: dict[str, dict[str, np.ndarray]] = {}
        for key in file.files:
            what, _, name = key.partition("/")
            rounds.setdefault(what, {})[name] = file[key]
    for what, arrays in rounds.items():
        layout = Layout.of(arrays)
        yield Case(f"round {what}", layout, layout.flatten(arrays))

"""The backbone of the digits task: a small vision transformer, pretrained once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from platformdirs import user_cache_path
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

_CONFIG: dict[str, Any] = dict(
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    image_size=8,
    patch_size=4,
    num_channels=1,
    num_labels=10,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
_EPOCHS = 30
_BATCH = 32
_LEARNING_RATE = 1e-3


def pretrained_backbone(pixels: Tensor, labels: Tensor) -> ViTForImageClassification:
    """Return the backbone from the user's cache folder; pretrain it if it is missing.

    Its classification head is new: the pretrained head is discarded.

    Parameters
    ----------
    pixels : Tensor
        Public images, float32 of shape (n, 1, 8, 8).
    labels : Tensor
        Their classes, int64 of shape (n,).
    """
    folder = cache_folder()
    if not (folder / "config.json").exists():
        _save(_pretrain(pixels, labels), folder)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model = ViTForImageClassification.from_pretrained(folder)
    head = torch.nn.Linear(_CONFIG["hidden_size"], _CONFIG["num_labels"])
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(head.weight, std=0.02, generator=generator)
    torch.nn.init.zeros_(head.bias)
    model.classifier = head
    return model


def cache_folder() -> Path:
    """Return the cache folder, which has a hash of the recipe in its name."""
    recipe = (_CONFIG, _EPOCHS, _BATCH, _LEARNING_RATE, transformers.__version__)
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    return user_cache_path("flasc-flwr") / f"digits-vit-{key}"


def _pretrain(pixels: Tensor, labels: Tensor) -> ViTForImageClassification:
    # With one thread, sums do not depend on the number of cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return _trained(
                ViTForImageClassification(ViTConfig(**_CONFIG)), pixels, labels
            )
    finally:
        torch.set_num_threads(threads)


def _trained(
    model: ViTForImageClassification, pixels: Tensor, labels: Tensor
) -> ViTForImageClassification:
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    model.train()
    for _ in range(_EPOCHS):
        for batch in torch.split(torch.randperm(len(labels)), _BATCH):
            optimizer.zero_grad()
            model(pixel_values=pixels[batch], labels=labels[batch]).loss.backward()
            optimizer.step()
    return model


def _save(model: ViTForImageClassification, folder: Path) -> None:
    """Save atomically: several processes may pretrain at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch) / folder.name
        model.save_pretrained(fresh)
        try:
            os.rename(fresh, folder)
        except OSError:
            if not (folder / "config.json").exists():
                raise

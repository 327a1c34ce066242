"""Tasks on the models and data of the fixture `root`."""

import torch

from tests.app import files
from tests.app.tiny import VOCABULARY


def text_task(root, kind, **settings):
    return files.text_task(root / kind, root / "t-*.jsonl", **settings)


def language_task(root, kind="gpt2", **settings):
    return text_task(root, kind, task="causal-lm", **settings)


def image_task(root, **settings):
    settings = {"dataset": root / "i.npz"} | settings
    return files.image_task(root / "vit", **settings)


def independent_inputs(task, rows):
    """Tokenise by hand: words of a known vocabulary, one text at a time."""
    for row in rows:
        words = [VOCABULARY[word] for word in row["text"].split()]
        decoder = task.model.config.model_type in ("gpt2", "llama")
        ids = words if decoder else [2, *words[:14], 3]
        yield torch.tensor([ids[:16]]), row["label"]

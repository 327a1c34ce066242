"""What a model reads of an example, as text."""

import torch

SECRET = "a secret value"


def decoded(root, examples, number):
    """Return the whole text of an example, and the part that is learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "chat")
    batch = examples.batch(torch.tensor([number]))
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    return tokenizer.decode(ids), tokenizer.decode(labels[labels != -100])

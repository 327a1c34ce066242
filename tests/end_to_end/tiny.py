"""A tiny text classifier and its data: on a device, each message loads it again."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = {0: ("bad", "poor", "dull"), 1: ("good", "fine", "great")}


def make_model(folder: Path, hidden: int = 32) -> Path:
    """Save an encoder of two layers, and a tokenizer of a few words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS[0], *WORDS[1]]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def make_rows(file: Path, count: int, seed: int = 0) -> Path:
    """Write rows of three words and their class."""
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for label in rng.integers(0, 2, count):
        lines.append(f"{' '.join(rng.choice(WORDS[label], 3))},{label}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def run_config(model: Path, dataset: Path, output: Path, *more: str) -> Sequence[str]:
    """Return the options of ``flwr run . CONNECTION``."""
    words = (
        f"task='text-classification' model='{model}' dataset='{dataset}' classes=2 "
        f"head='mean' output-dir='{output}' fraction-train=1.0 local-epochs=1 "
        "batch-size=8 max-length=16 client-learning-rate=0.1 device='cpu'"
    )
    return ("--run-config", " ".join([words, *more]))

"""Tiny models and data, built from configs: no test needs the hub."""

import json

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.task import load_task

_TEXT = "the cat dog sat ran on a mat fast slow red blue sun rain good bad"
WORDS = _TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[END]"]
VOCABULARY = {word: number for number, word in enumerate(SPECIAL + WORDS)}

_BERT = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    vocab_size=len(VOCABULARY),
    max_position_embeddings=32,
)
_GPT2 = dict(n_embd=16, n_layer=2, n_head=2, n_positions=32)
CONFIGS = {
    "bert": ("BertConfig", _BERT),
    "roberta": ("RobertaConfig", _BERT | {"pad_token_id": 0}),
    "distilbert": (
        "DistilBertConfig",
        dict(
            dim=16,
            hidden_dim=24,
            n_layers=2,
            n_heads=2,
            vocab_size=len(VOCABULARY),
            max_position_embeddings=32,
        ),
    ),
    "albert": ("AlbertConfig", _BERT | {"embedding_size": 8}),
    "gpt2": (
        "GPT2Config",
        _GPT2
        | dict(
            vocab_size=len(VOCABULARY),
            bos_token_id=VOCABULARY["[END]"],
            eos_token_id=VOCABULARY["[END]"],
        ),
    ),
    "llama": (
        "LlamaConfig",
        _BERT | {"num_key_value_heads": 2, "eos_token_id": VOCABULARY["[END]"]},
    ),
    "vit": (
        "ViTConfig",
        dict(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=16,
            patch_size=8,
        ),
    ),
}
_BASES = {"gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM"}


def save_model(folder, kind, **settings):
    """Save a tiny model with random weights, and what makes its inputs."""
    name, common = CONFIGS[kind]
    config = getattr(transformers, name)(**(common | settings))
    auto = getattr(transformers, _BASES.get(kind, "AutoModel"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = auto.from_config(config)
    # Larger than usual, so that what is computed depends on what is read.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(
                parameter, std=0.3, generator=torch.Generator().manual_seed(1)
            )
    model.save_pretrained(folder)
    if kind == "vit":
        settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "ViTImageProcessor"} | settings)
        )
    else:
        save_tokenizer(folder, decoder=kind in _BASES)
    return folder


def save_tokenizer(folder, *, decoder=False, vocabulary=VOCABULARY, **settings):
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"unk_token": "[UNK]"}
    if decoder:
        tokens |= {"eos_token": "[END]"}
    else:
        tokens |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", 3)],
        )
    tokens |= {"model_max_length": 32} | settings
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(
        folder
    )


def texts(count, seed=0, classes=2):
    """Return rows with texts of 1 to 9 words, their class and their author."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = number % classes
        words = rng.choice(WORDS, rng.integers(1, 10)).tolist()
        words.append(["good", "bad", "sun", "rain"][label])
        rows.append(
            {"text": " ".join(words), "label": label, "author": f"u{number % 3}"}
        )
    return rows


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def images(count, seed=0, classes=2, size=16):
    """Return images of which a class is brighter in its own channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 150, (count, size, size, 3))
    pixels[np.arange(count), :, :, labels] += 100
    return pixels.astype(np.uint8), labels


def settings_of(**settings):
    """Return kebab-case settings, small ones by default."""
    small = {"lora_rank": 2, "lora_alpha": 4.0, "batch_size": 4, "max_length": 16}
    small |= {"local_epochs": 1, "client_learning_rate": 0.05}
    return {k.replace("_", "-"): v for k, v in (small | settings).items()}


def task_of(**settings):
    load_task.cache_clear()
    return load_task(RunConfig.parse(settings_of(**settings)))

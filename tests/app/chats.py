"""A tiny chat model, and conversations that it can learn."""

import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.app.chat_tokenizers import CHATML, chat_tokenizer
from tests.app.tiny import task_of, write_jsonl


def save_chat_model(folder, template=CHATML, **settings):
    """Save a tiny Llama with random weights, its tokenizer and its chat template."""
    tokenizer = chat_tokenizer(template=template)
    names = {
        name: getattr(tokenizer, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    sizes = dict(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(LlamaConfig(**(sizes | names | settings)))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def questions(count, start=0):
    """Return rows with a prompt, a response and a domain."""
    rows = []
    for number in range(start, start + count):
        if number % 2:
            row = {"prompt": f"What is {number}+1?", "domain": "maths"}
            row["response"] = f"It is {number + 1}.\n#### {number + 1}"
        else:
            row = {"prompt": f"Hello! I am {number}.", "domain": "talk"}
            row["response"] = "How are you today?"
        rows.append(row)
    return rows


def save_chats(folder):
    """Save two models, with a chat template and without, and questions."""
    save_chat_model(folder / "chat")
    save_chat_model(folder / "plain", template=None)
    return save_questions(folder)


def save_questions(folder):
    write_jsonl(folder / "q-train.jsonl", questions(40))
    write_jsonl(folder / "q-test.jsonl", questions(12, start=40))
    return folder


def chat_settings(root, **settings):
    common = {
        "task": "instruction",
        "model": str(root / "chat"),
        "dataset": str(root / "q-*.jsonl"),
        "partitioner": "iid",
        "max_length": 128,
        "client_optimizer": "adamw",
    }
    return common | settings


def chat_task(root, **settings):
    return task_of(**chat_settings(root, **settings))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]

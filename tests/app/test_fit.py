"""Tokenizers that belong to their model, and others."""

import json

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast

from tests.app.files import everything, text_task
from tests.app.tiny import (
    SPECIAL,
    VOCABULARY,
    WORDS,
    save_model,
    save_tokenizer,
    texts,
    write_jsonl,
)

pytestmark = pytest.mark.usefixtures("built_cache")


def build(root, model, **settings):
    return text_task(model, root / "t-*.jsonl", **settings)


def with_words(count):
    return VOCABULARY | {f"word{n}": len(VOCABULARY) + n for n in range(count)}


def test_every_token_needs_an_embedding(root, tmp_path):
    model = save_model(tmp_path, "bert")
    save_tokenizer(model, vocabulary=with_words(3))
    expected = "an embedding for every token .*with 21 embeddings and 24 tokens"
    with pytest.raises(ValueError, match=expected):
        build(root, model)
    resized = AutoModel.from_pretrained(model)
    resized.resize_token_embeddings(24)
    resized.save_pretrained(model)
    build(root, model)


def test_a_padding_token_that_was_added_needs_an_embedding(root, tmp_path):
    model = save_model(tmp_path, "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "<more>"})
    tokenizer.save_pretrained(model)
    expected = r"21 embeddings and 22 tokens \('<more>' has none\)"
    with pytest.raises(ValueError, match=expected):
        build(root, model)


def test_a_special_token_for_other_inputs_needs_none_until_a_text_has_it(
    root, tmp_path
):
    """Gemma 3 has a token for images that only its larger models can read."""
    model = save_model(tmp_path, "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(model)
    task = build(root, model)
    rows = [{"text": "cat dog", "label": 0}, {"text": "my <image> cat", "label": 1}]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(ValueError, match="row 1 .* of text-column 'text' .*below 21"):
        task.data.local_examples(str(path))


@pytest.mark.parametrize(
    ("embeddings", "right"), [(22, True), (24, True), (64, True), (80, False)]
)
def test_many_embeddings_need_as_many_tokens(root, tmp_path, embeddings, right):
    # Sizes are often rounded up, to a multiple of 8 or 64.
    model = save_model(tmp_path, "bert", vocab_size=embeddings)
    if right:
        build(root, model)
        return
    expected = "tokenizer that it was trained with, .*80 embeddings and 21 tokens"
    with pytest.raises(ValueError, match=expected):
        build(root, model)


def test_a_vocabulary_of_the_usual_size_with_a_tokenizer_of_another_model(
    root, tmp_path
):
    model = save_model(tmp_path, "bert", vocab_size=30522)
    # BERT's cased vocabulary, with the uncased model.
    save_tokenizer(model, vocabulary=with_words(28996 - len(VOCABULARY)))
    with pytest.raises(ValueError, match="30522 embeddings and 28996 tokens"):
        build(root, model)


def test_models_that_count_positions_from_padding_need_their_padding_token(
    root, tmp_path
):
    model = save_model(tmp_path, "roberta", pad_token_id=1)
    expected = "must have padding token 1, .* a tokenizer that pads with 0"
    with pytest.raises(ValueError, match=expected):
        build(root, model)


def test_positions_of_roberta_start_after_its_padding(root, tmp_path):
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[END]", *WORDS]
    model = save_model(tmp_path, "roberta", pad_token_id=1, max_position_embeddings=34)
    save_tokenizer(
        model,
        vocabulary={word: number for number, word in enumerate(words)},
        model_max_length=10**30,
    )
    long = [{"text": " ".join(["cat"] * 99), "label": 0}]
    path = write_jsonl(tmp_path / "long.jsonl", long)
    examples = build(root, model, max_length=32).data.local_examples(str(path))
    assert everything(examples)["input_ids"].shape == (1, 32)
    with pytest.raises(ValueError, match="max-length must be at most 32 .*, got 33"):
        build(root, model, max_length=33)


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_has_room_for_more_than_the_tokens_around_a_text(root, length):
    """With less than these, tokenizers do not truncate at all."""
    least = f"max-length must be above 2 with model .*bert', .*, got {length}"
    with pytest.raises(ValueError, match=least):
        build(root, root / "bert", max_length=length)


def test_token_types_are_left_out_where_a_model_has_none(root, tmp_path):
    """GPT-2 would add the embedding of token 0 to every token."""
    model = save_model(tmp_path, "gpt2")
    words = [*SPECIAL, *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    for file in model.glob("*token*"):
        file.unlink()
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(model)
    assert "token_type_ids" in AutoTokenizer.from_pretrained(model)("cat")
    assert "token_type_ids" not in build(root, model).data.test.batch(torch.arange(2))
    assert "token_type_ids" not in everything(build(root, model, head="mean").data.test)
    bert = save_model(tmp_path / "bert", "bert")
    for file in bert.glob("*token*"):
        file.unlink()
    AutoTokenizer.from_pretrained(model).save_pretrained(bert)
    assert "token_type_ids" in build(root, bert).data.test.batch(torch.arange(2))


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_different_texts_that_become_the_same_tokens_are_refused(root, tmp_path, task):
    rows = [
        row | {"text": f"cat dog {row['text']} {n}"} for n, row in enumerate(texts(20))
    ]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    kind = "gpt2" if task == "causal-lm" else "bert"
    built = build(root, root / kind, task=task, max_length=2 if kind == "gpt2" else 4)
    expected = "differ within max-length .*, got different texts that all become"
    with pytest.raises(ValueError, match=expected):
        built.data.local_examples(str(path))


def test_texts_of_one_token_cannot_be_predicted(root, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "cat"}, {"text": "dog"}])
    task = build(root, root / "gpt2", task="causal-lm")
    with pytest.raises(ValueError, match="x.jsonl.* no text has two tokens or more"):
        task.data.local_examples(str(path))
    with pytest.raises(ValueError, match="max-length must be >= 2 .*, got 1"):
        build(root, root / "gpt2", task="causal-lm", max_length=1)


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_padding_is_masked_whatever_the_tokenizer_says(root, tmp_path, task):
    model = save_model(tmp_path, "gpt2")
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"model_input_names": ["input_ids"]}
    file.write_text(json.dumps(settings))
    outcomes = []
    for folder in (model, root / "gpt2"):
        built = build(root, folder, task=task)
        assert "attention_mask" in built.data.test.batch(torch.arange(2))
        outcomes.append(built.evaluate(built.data.test))
    assert outcomes[0] == outcomes[1]

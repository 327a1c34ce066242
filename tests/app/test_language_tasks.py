"""Causal language modelling: its loss, padding and short texts."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
)

from tests.app.built import independent_inputs, language_task
from tests.app.tiny import texts, write_jsonl

pytestmark = pytest.mark.usefixtures("built_cache")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_models_loss_is_per_token_however_texts_are_batched(root, kind):
    task = language_task(root, kind)
    task.train(task.data.partition(0, 4), seed=0)
    outcome = task.evaluate(task.data.test)
    losses, right, plain = [], 0, AutoModelForCausalLM.from_pretrained(root / kind)
    assert next(plain.parameters()).dtype == torch.float32
    with torch.no_grad():
        for ids, _ in independent_inputs(task, texts(30, seed=1)):
            logits = task.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            following = ids[0, 1:]
            losses += (-logits[range(len(following)), following]).tolist()
            right += int((logits.argmax(-1) == following).sum())
    assert outcome.accuracy == pytest.approx(right / len(losses))
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_padding_that_is_the_end_token_does_not_hide_real_end_tokens(root, tmp_path):
    rows = [{"text": "cat dog"}, {"text": "cat [END] sun"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    task = language_task(root)
    batch = task.data.local_examples(str(tmp_path / "x.jsonl")).batch(torch.arange(2))
    end = 4
    assert batch["input_ids"].tolist() == [[6, 7, end], [6, end, 17]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[6, 7, -100], [6, end, 17]]


def test_texts_too_short_to_learn_from_are_left_out_of_language_modelling(
    root, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(
        "flasc_flwr.app.tasks.causal_lm.log", lambda _, *said_: said.append(said_)
    )
    rows = [{"text": t} for t in ("cat", "", None, "cat dog")]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert len(language_task(root).data.local_examples(str(tmp_path / "x.jsonl"))) == 1
    (line,) = said
    assert line[0] % line[1:] == (
        "Left out 3 of 4 texts, which have fewer than two tokens"
    )
    write_jsonl(tmp_path / "y.jsonl", rows[:2])
    with pytest.raises(
        ValueError, match="data-path .*no usable rows: no text has two tok"
    ):
        language_task(root).data.local_examples(str(tmp_path / "y.jsonl"))

"""Examples of a client: partitions, packing, domains and losses."""

import numpy as np
import pytest
import torch

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.data_errors import DataError
from tests.app.chats import (
    chat_settings,
    chat_task,
    questions,
)
from tests.app.instruction.decoding import decoded
from tests.app.tiny import settings_of, write_jsonl


def test_partitioners_split_by_domain(root):
    by_domain = {"domain_column": "domain", "partitioner": "pathological"}
    task = chat_task(root, **by_domain, classes_per_partition=1)
    domains = [
        set(part.table["__domain__"][i] for i in part.rows.tolist())
        for part in (task.data.partition(n, 4) for n in range(4))
    ]
    assert all(len(names) == 1 for names in domains)
    assert set().union(*domains) == {"maths", "talk"}
    task = chat_task(root, domain_column="domain", partitioner="dirichlet")
    assert len(task.data.partition(0, 2)) > 0
    config = RunConfig.parse(
        settings_of(**chat_settings(root, partitioner="dirichlet"))
    )
    with pytest.raises(ValueError, match="must be iid or natural-id with task 'instr"):
        config.require_partitioner()
    with pytest.raises(ValueError, match="domain-column must be one of the columns"):
        chat_task(root, domain_column="topic").data.partition(0, 2)


def test_each_user_can_be_a_client(root):
    task = chat_task(root, partitioner="natural-id", user_column="domain")
    texts = [decoded(root, task.data.partition(n, 2), 0)[0] for n in range(2)]
    assert sorted("What is" in text for text in texts) == [False, True]


def test_packing_changes_no_result(root):
    plain, packed = (chat_task(root, packing=p) for p in (False, True))
    chosen = torch.arange(8)
    one = plain.data.partition(0, 3).batch(chosen)
    other = packed.data.partition(0, 3).batch(chosen)
    assert other["input_ids"].shape[0] < one["input_ids"].shape[0] == 8
    assert (one["labels"] != -100).sum() == (other["labels"] != -100).sum()
    assert "attention_mask" not in other
    results = [
        (task.train(task.data.partition(0, 3), seed=0), task.evaluate(task.data.test))
        for task in (plain, packed)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
        assert theirs.steps == ours.steps and theirs.accuracy == ours.accuracy
    from flasc_flwr.app.training.lora import read_adapter

    adapters = [read_adapter(task.model) for task in (plain, packed)]
    for name, array in adapters[0].items():
        np.testing.assert_allclose(adapters[1][name], array, atol=1e-4)


def test_packing_is_refused_where_rows_would_see_each_other(root, tmp_path):
    from tests.app.architectures import save_architecture

    for kind in ("mamba", "opt"):
        (tmp_path / kind).mkdir()
        save_architecture(tmp_path / kind, kind)
        with pytest.raises(ValueError, match="packing must be false with a model"):
            chat_task(
                root,
                model=str(tmp_path / kind),
                chat_template="alpaca",
                packing=True,
                max_length=30,
            )


def test_domains_are_names_of_metrics(root, tmp_path):
    rows = questions(6)
    for row, name in zip(rows, ["c+", "c#", "c+", 5, 5.0, "数学"], strict=True):
        row["domain"] = name
    for part in ("train", "test"):
        write_jsonl(tmp_path / f"q-{part}.jsonl", rows)
    dataset = str(tmp_path / "q-*.jsonl")
    task = chat_task(root, domain_column="domain", dataset=dataset)
    names = {n for n in task.measure(task.data.test) if n.startswith("loss_")}
    assert names == {"loss_c_", "loss_c__", "loss_5", "loss_数学"}
    rows[2]["domain"] = None
    write_jsonl(tmp_path / "q-test.jsonl", rows)
    with pytest.raises(DataError, match="row 2 .* of domain-column 'domain' must be"):
        _ = task.data.__class__(task.config, task.data._how).test
    rows = questions(60)
    for number, row in enumerate(rows):
        row["domain"] = number
    write_jsonl(tmp_path / "q-test.jsonl", rows)
    task = chat_task(root, domain_column="domain", dataset=dataset)
    with pytest.raises(DataError, match="at most 50 different values, got 60"):
        task.measure(task.data.test)


def test_losses_are_of_responses_by_domain(root):
    task = chat_task(root, domain_column="domain")
    measured = task.measure(task.data.test)
    sums = {}
    rows = questions(12, start=40)
    for number, row in enumerate(rows):
        batch = task.data.test.batch(torch.tensor([number]))
        with torch.no_grad():
            logits = task.model(input_ids=batch["input_ids"]).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        shown = labels != -100
        losses = torch.nn.functional.cross_entropy(
            logits[shown], labels[shown], reduction="none"
        )
        right = (logits.argmax(-1) == labels)[shown]
        for name in ("", f"_{row['domain']}"):
            loss, hits, count = sums.get(name, (0.0, 0, 0))
            sums[name] = (
                loss + float(losses.sum()),
                hits + int(right.sum()),
                count + len(losses),
            )
    assert set(sums) == {"", "_maths", "_talk"} and len(measured) == 9
    for name, (loss, hits, count) in sums.items():
        assert measured[f"loss{name}"] == pytest.approx(loss / count, rel=1e-4)
        assert measured[f"accuracy{name}"] == pytest.approx(hits / count)
        assert measured[f"perplexity{name}"] == pytest.approx(
            np.exp(loss / count), rel=1e-4
        )

"""Files and splits, the rows of each client, and devices with their own data."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from datasets import load_dataset
from transformers import PreTrainedTokenizerFast

from flasc_flwr.app.tasks.files import read_split
from flasc_flwr.app.tasks.sources import device_rows, load_rows, model_path
from flasc_flwr.app.tasks.tables import USER
from tests.app.files import everything, text_task, write
from tests.app.tiny import VOCABULARY, save_model, save_tokenizer, texts, write_jsonl

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "json"])
def test_every_table_format_gives_the_same_inputs(tmp_path, bert, kind):
    write(tmp_path, "parquet")
    expected = everything(text_task(bert, tmp_path).data.partition(0, 1))
    (other := tmp_path / "other").mkdir()
    path = write(other, kind)
    given = everything(text_task(bert, path).data.partition(0, 1))
    assert given.keys() == expected.keys()
    for name in expected:
        assert torch.equal(given[name], expected[name]), name


def test_a_split_is_a_word_in_file_names(tmp_path, monkeypatch):
    top, tmp_path = tmp_path, tmp_path / "deep"
    tmp_path.mkdir()
    for part, count in (("train", 8), ("test", 4)):
        write(tmp_path, "csv", count, part)
    # "train" is not a word of "trainer".
    write(tmp_path, "csv", 2, "trainer")
    (tmp_path / "train.txt").write_text("not data")
    monkeypatch.setenv("FLASC_TEST_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(top))
    for name in (
        str(tmp_path),
        str(tmp_path / "news-*.csv"),
        str(top / "*" / "news-*"),
        "$FLASC_TEST_DATA/news-*.csv",
        "${FLASC_TEST_DATA}",
        f"~/{tmp_path.name}",
    ):
        assert len(load_rows(name, "train")) == 8, name
        assert len(load_rows(name, "test")) == 4, name
    assert len(load_rows(str(tmp_path / "news-*.csv"), "trainer")) == 2


def test_several_files_are_one_split(tmp_path):
    for shard in (0, 1):
        rows = pd.DataFrame(texts(5 + shard))
        rows.to_csv(tmp_path / f"train-{shard:05d}-of-00002.csv", index=False)
    assert len(load_rows(str(tmp_path), "train")) == 11
    write(tmp_path, "jsonl")
    with pytest.raises(ValueError, match=r"one format .* got \['news-train.jsonl', "):
        load_rows(str(tmp_path), "train")


def test_one_file_is_never_both_trained_and_tested_on(tmp_path, bert):
    path = write(tmp_path, "csv").rename(tmp_path / "news.csv")
    task = text_task(bert, path)
    assert len(task.data.partition(0, 1)) == 18
    with pytest.raises(ValueError, match=r"'news.csv', .* no 'test' rows: .*80%"):
        _ = task.data.test
    sliced = {"train_split": "train[:80%]", "test_split": "train[80%:]"}
    task = text_task(bert, path, validation_fraction=0.0, **sliced)
    assert len(task.data.partition(0, 1)) == 16
    labels = [row["label"] for row in texts(20)]
    assert everything(task.data.test)["labels"].tolist() == labels[16:]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("FLASC_NOWHERE", raising=False)
    missing = str(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="dataset .* got '.*absent.csv'"):
        load_rows(missing, "train")
    with pytest.raises(ValueError, match=r"\$FLASC_NOWHERE is not set"):
        load_rows("$FLASC_NOWHERE/news-*.csv", "train")
    with pytest.raises(ValueError, match="dataset .* got ''"):
        load_rows("", "train")
    with pytest.raises(
        ValueError, match="must have files .* or a folder 'train' of tab"
    ):
        load_rows(str(tmp_path), "train")
    with pytest.raises(ValueError, match="model .* got ''"):
        model_path("")
    with pytest.raises(ValueError, match="model .* 'flasc_nowhere' is not installed"):
        model_path("package:flasc_nowhere/model")
    with pytest.raises(ValueError, match="model .*'flasc_flwr', got 'package:fl"):
        model_path("package:flasc_flwr/model")
    with pytest.raises(ValueError, match=r"model .* got '\./absent'"):
        model_path("./absent")


def test_the_error_offline_says_what_to_do(tmp_path, bert):
    expected = (
        r"dataset 'flasc-no/such-set' could not be loaded: .*"
        r"load_dataset\('flasc-no/such-set'\).* or set dataset to a local path"
    )
    with pytest.raises(ValueError, match=expected):
        text_task(bert, "flasc-no/such-set")
    expected = (
        r"model 'flasc-no/such-model' .*AutoModel.from_pretrained\("
        r"'flasc-no/such-model'\).* or set model to a local path"
    )
    with pytest.raises(ValueError, match=expected):
        text_task("flasc-no/such-model", write(tmp_path, "csv"))


def test_validation_rows_are_never_trained_on(tmp_path, bert):
    rows = [{"text": f"cat {'dog ' * i}", "label": i % 2} for i in range(14)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    seen = set()
    for seed in (0, 1):
        settings = {"validation_fraction": 0.3, "max_length": 20, "seed": seed}
        data = text_task(bert, path, **settings).data
        held = lengths(data.validation)
        trained = [n for i in range(3) for n in lengths(data.partition(i, 3))]
        assert len(held) == 5 and len(trained) == 9
        assert set(held) | set(trained) == set(range(3, 17))
        seen.add(tuple(sorted(held)))
    # The same for every seed: no run trains on rows that another was tuned on.
    assert len(seen) == 1
    none = text_task(bert, path, validation_fraction=0.0)
    assert len(none.data.partition(0, 1)) == 14
    with pytest.raises(ValueError, match="validation-fraction must be > 0, .* got 0"):
        _ = none.data.validation


def lengths(examples):
    return everything(examples)["attention_mask"].sum(1).tolist()


def test_each_user_is_a_client(tmp_path, gpt2):
    write(tmp_path, "parquet", 30)
    settings = {"task": "causal-lm", "partitioner": "natural-id"}
    task = text_task(gpt2, tmp_path, user_column="author", **settings)
    whose = [
        {examples.table[int(row)][USER] for row in examples.rows}
        for examples in (task.data.partition(i, 3) for i in range(3))
    ]
    assert sorted(map(sorted, whose)) == [["u0"], ["u1"], ["u2"]]
    with pytest.raises(
        ValueError, match="num-partitions .* 3, the number of users, got 4"
    ):
        task.data.partition(0, 4)
    task = text_task(gpt2, tmp_path, **settings)
    with pytest.raises(
        ValueError, match="partitioner .* user-column, got 'natural-id'"
    ):
        task.data.partition(0, 3)


def test_only_split_data_needs_a_user_column(tmp_path, gpt2):
    write(tmp_path, "csv", 30)
    write(tmp_path, "csv", 6, "test", author="nobody")
    settings = {"task": "causal-lm", "user_column": "author"}
    task = text_task(gpt2, tmp_path, partitioner="natural-id", **settings)
    assert len(task.data.test) == 6
    assert len(task.data.local_examples(str(tmp_path / "news-test.csv"))) == 6


def test_rows_without_one_class_each_cannot_be_split_by_class(tmp_path, gpt2):
    task = text_task(
        gpt2, write(tmp_path, "csv"), task="causal-lm", partitioner="dirichlet"
    )
    with pytest.raises(
        ValueError, match="partitioner must be iid or natural.*got 'dirichlet'"
    ):
        task.data.partition(0, 2)


COUNTING = """
import sys
from pathlib import Path
import datasets
datasets.config.HF_DATASETS_CACHE = Path(sys.argv[1])
from tests.app.test_data import count_tokenised
print(count_tokenised(*sys.argv[2:4]))
"""


def count_tokenised(model, dataset, length=16, **settings):
    """Return how many texts are tokenised when a task is built and used again.

    Building it tokenises a few texts of its own, to check the model.
    """
    calls, real = [], PreTrainedTokenizerFast.__call__
    data = text_task(model, dataset, max_length=length, **settings).data

    def counted(self, given, **settings):
        calls.append(0 if given == [""] else len(given))
        return real(self, given, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "__call__", counted)
        data.partition(0, 2), data.validation, data.test
    return sum(calls)


def test_texts_are_tokenised_once_for_all_processes(tmp_path, cache):
    model = save_model(tmp_path / "model", "bert")
    (data := tmp_path / "data").mkdir()
    write(data, "jsonl", 20)
    write(data, "jsonl", 6, "test")
    assert count_tokenised(model, data) == 26
    assert count_tokenised(model, data) == 0
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(cache), str(model), str(data)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"
    assert count_tokenised(model, data, length=15) == 26
    rows = texts(20)
    rows[3]["text"] = "the dog"
    write_jsonl(data / "news-train.jsonl", rows)
    assert count_tokenised(model, data) == 20
    words = VOCABULARY | {"dog": VOCABULARY["cat"], "cat": VOCABULARY["dog"]}
    save_tokenizer(model, vocabulary=words)
    assert count_tokenised(model, data) == 26
    assert count_tokenised(model, data) == 0


@pytest.mark.parametrize(("kind", "warned"), [("csv", 1), ("json", 1), ("parquet", 0)])
def test_types_that_datasets_guesses_at_the_hub_are_told(
    tmp_path, kind, warned, monkeypatch, caplog
):
    folder = tmp_path / "hub"
    folder.mkdir()
    table = pd.DataFrame({"text": ["007", "NA"], "day": ["2020-01-01"] * 2})
    if kind == "parquet":
        table.to_parquet(folder / "train.parquet")
    elif kind == "csv":
        table.to_csv(folder / "train.csv", index=False)
    else:
        table.to_json(folder / "train.jsonl", orient="records", lines=True)
    # The hub's files are read by the same builders as those of a folder.
    at_hub = lambda name, config, split: load_dataset(str(folder), split=split)  # noqa: E731
    monkeypatch.setattr("flasc_flwr.app.tasks.sources.load_dataset", at_hub)
    for _ in range(2):
        rows = load_rows(f"someone/days-{kind}", "train")
    told = [line for line in caplog.messages if "datasets` guesses" in line]
    assert len(told) == warned
    assert (rows[:]["day"] == ["2020-01-01"] * 2) == (kind != "json")
    assert (rows[:]["text"] == ["007", "NA"]) == (kind != "csv")
    if told:
        assert f"'someone/days-{kind}' has {kind.upper()} files" in told[0]


def test_a_devices_data_needs_neither_the_hub_nor_the_runs_data(
    tmp_path, bert, monkeypatch
):
    def forbidden(*args, **settings):
        raise AssertionError("the run's data was loaded")

    path = write(tmp_path, "csv", 7)
    monkeypatch.setattr("flasc_flwr.app.tasks.tables.load_rows", forbidden)
    monkeypatch.setattr("flasc_flwr.app.tasks.labels.load_rows", forbidden)
    monkeypatch.setattr("flasc_flwr.app.tasks.sources.load_dataset", forbidden)
    task = text_task(bert, "stanfordnlp/none", classes=2, user_column="nobody")
    assert len(task.data.local_examples(str(path))) == 7
    with pytest.raises(ValueError, match="data-path .* on this node, got 'news/here'"):
        task.data.local_examples("news/here")
    assert len(device_rows(str(tmp_path), "train[:50%]")) == 7
    with pytest.raises(ValueError, match="AssertionError"):
        task.data.partition(0, 1)


def test_no_such_file_is_none():
    from pathlib import Path

    assert read_split(Path("/nowhere/at-all-*.csv"), "train") is None


def test_users_and_names_are_no_reason_to_tokenise_again(tmp_path, cache):
    model = save_model(tmp_path / "model", "bert")
    (data := tmp_path / "data").mkdir()
    write(data, "csv", 20)
    write(data, "csv", 6, "test")
    settings = {
        "class_names": "0,1",
        "partitioner": "natural-id",
        "user_column": "author",
        "train_split": "train[:10]",
    }
    assert count_tokenised(model, data, **settings) == 16
    assert count_tokenised(model, data, **settings) == 0

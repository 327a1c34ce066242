"""Data of every format, its columns and errors, and devices with their own."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from transformers import PreTrainedTokenizerFast

import client_app
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.tasks.files import rows_of_part
from flasc_flwr.tasks.sources import load_rows, model_path, own_rows
from tests.app.test_apps import run
from tests.app.tiny import (
    VOCABULARY,
    images,
    save_model,
    save_tokenizer,
    settings_of,
    task_of,
    texts,
    write_jsonl,
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    return folder


def write(folder, kind, count=20, part="train", **columns):
    frame = pd.DataFrame(texts(count) if part == "train" else texts(count, seed=1))
    frame = frame.rename(columns=columns)
    path = folder / f"news-{part}.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def text_task(model, dataset, **settings):
    settings = {"task": "text-classification", "partitioner": "iid"} | settings
    return task_of(model=str(model), dataset=str(dataset), **settings)


def everything(examples):
    return examples.batch(torch.arange(len(examples)))


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


def test_splits_are_told_by_the_words_in_file_names(tmp_path, monkeypatch):
    top, tmp_path = tmp_path, tmp_path / "deep"
    tmp_path.mkdir()
    for part, count in (("train", 8), ("test", 4)):
        write(tmp_path, "csv", count, part)
    # No word of it: another split.
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
    with pytest.raises(ValueError, match=r"kinds \['.csv', '.jsonl'\], allowed is one"):
        load_rows(str(tmp_path), "train")


def test_one_file_is_never_both_trained_and_tested_on(tmp_path, bert):
    path = write(tmp_path, "csv").rename(tmp_path / "news.csv")
    task = text_task(bert, path)
    assert len(task.data.partition(0, 1)) == 18
    with pytest.raises(
        ValueError, match=r"'news.csv', which has no 'test' rows: .*80%"
    ):
        _ = task.data.test
    sliced = {"train_split": "train[:80%]", "test_split": "train[80%:]"}
    task = text_task(bert, path, validation_fraction=0.0, **sliced)
    assert len(task.data.partition(0, 1)) == 16
    labels = [row["label"] for row in texts(20)]
    assert everything(task.data.test)["labels"].tolist() == labels[16:]


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("FLASC_NOWHERE", raising=False)
    missing = str(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="dataset is '.*absent.csv', but there is no"):
        load_rows(missing, "train")
    with pytest.raises(ValueError, match=r"\$FLASC_NOWHERE is not set"):
        load_rows("$FLASC_NOWHERE/news-*.csv", "train")
    with pytest.raises(ValueError, match="dataset is ''.*name a data set at the hub"):
        load_rows("", "train")
    with pytest.raises(ValueError, match="has no file .* and no folder 'train' of im"):
        load_rows(str(tmp_path), "train")
    with pytest.raises(ValueError, match="model is '', but this task needs one"):
        model_path("")
    with pytest.raises(ValueError, match="no package 'flasc_nowhere' is installed"):
        model_path("package:flasc_nowhere/model")
    with pytest.raises(ValueError, match="'flasc_flwr' has no such folder"):
        model_path("package:flasc_flwr/model")
    with pytest.raises(ValueError, match=r"model is '\./absent', but there is no fold"):
        model_path("./absent")


def test_offline_the_hub_says_what_to_do(tmp_path, bert):
    expected = (
        r"dataset is 'flasc-no/such-set', and this data set could not be loaded: .*"
        r"load_dataset\('flasc-no/such-set'\).* or give a local path as dataset"
    )
    with pytest.raises(ValueError, match=expected):
        text_task(bert, "flasc-no/such-set")
    expected = (
        r"model is 'flasc-no/such-model', .*AutoModel.from_pretrained\("
        r"'flasc-no/such-model'\).* or give a local path as model"
    )
    with pytest.raises(ValueError, match=expected):
        text_task("flasc-no/such-model", write(tmp_path, "csv"))


def test_columns_can_have_any_name_and_a_missing_one_is_named(tmp_path, bert):
    path = write(tmp_path, "csv", text="body", label="topic")
    task = text_task(bert, path, text_column="body", label_column="topic")
    assert everything(task.data.partition(0, 1))["labels"].shape == (18,)
    there = "but the data has the columns body, topic, author"
    with pytest.raises(ValueError, match=f"label-column is 'label', {there}"):
        text_task(bert, path, text_column="body")
    task = text_task(bert, path, label_column="topic")
    with pytest.raises(ValueError, match=f"text-column is 'text', {there}"):
        task.data.partition(0, 1)
    names = {"text_column": "body", "label_column": "topic"}
    task = text_task(bert, path, user_column="who", **names)
    with pytest.raises(ValueError, match=f"user-column is 'who', {there}"):
        task.data.partition(0, 1)


def test_a_column_of_numbers_is_no_text(tmp_path, bert):
    path = write(tmp_path, "csv")
    task = text_task(bert, path, text_column="label")
    with pytest.raises(
        ValueError, match="text-column is 'label', whose values are int"
    ):
        task.data.partition(0, 1)


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_out_of_range_is_named_with_its_row(tmp_path, bert, label):
    rows = texts(10)
    rows[7]["label"] = label
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    task = text_task(bert, path, classes=2)
    expected = f"row 7 has {label} in column 'label', allowed is one of 0 to 1"
    with pytest.raises(ValueError, match=expected):
        task.data.partition(0, 1)


def test_named_classes_are_numbered_by_the_run(tmp_path, bert):
    rows = [row | {"label": ["good", "bad"][row["label"]]} for row in texts(10)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(ValueError, match="which has 'good': allowed are .*class-names"):
        text_task(bert, path)
    task = text_task(bert, path, class_names="bad, good", validation_fraction=0.0)
    examples = task.data.partition(0, 1)
    given = {
        tuple(row["input_ids"]): row["labels"]
        for row in (examples.table[i] for i in range(10))
    }
    again = text_task(bert, path, class_names="good,bad", validation_fraction=0.0)
    other = {
        tuple(row["input_ids"]): row["labels"]
        for row in (again.data.partition(0, 1).table[i] for i in range(10))
    }
    assert all(other[ids] == 1 - label for ids, label in given.items())
    assert sum(given.values()) == 5
    with pytest.raises(ValueError, match="the class 'bad', which is none of class-nam"):
        text_task(bert, path, class_names="good,worse").data.partition(0, 1)
    with pytest.raises(ValueError, match="classes is 3, but class-names has 2"):
        text_task(bert, path, class_names="good,bad", classes=3)


def test_classes_are_counted_as_the_data_says(tmp_path, bert):
    names = ClassLabel(names=["a", "b", "c"])
    features = Features({"text": Value("string"), "label": names})
    rows = Dataset.from_list(
        [{"text": "cat", "label": 0}, {"text": "dog", "label": 1}] * 3, features
    )
    rows.to_parquet(tmp_path / "x.parquet")
    assert text_task(bert, tmp_path / "x.parquet").model.config.num_labels == 3
    features["label"] = List(names)
    several = Dataset.from_dict({"text": ["cat"], "label": [[0, 1]]}, features)
    several.to_parquet(tmp_path / "y.parquet")
    from flasc_flwr.config import RunConfig
    from flasc_flwr.tasks.labels import class_count

    assert class_count(RunConfig(dataset=str(tmp_path / "y.parquet"))) == 3


def test_data_without_rows_is_named(tmp_path, bert):
    path = tmp_path / "x.csv"
    for content in ("", "text,label\n"):
        path.write_text(content)
        expected = r"\['x.csv'\] cannot be read, or have no rows: "
        with pytest.raises(ValueError, match=expected):
            text_task(bert, path)
        task = text_task(bert, path, classes=2)
        with pytest.raises(ValueError, match=expected):
            task.data.partition(0, 1)
        with pytest.raises(ValueError, match=expected):
            task.data.own(str(path))
    one = text_task(bert, write(tmp_path, "csv", 1), classes=2)
    with pytest.raises(
        ValueError, match="validation-fraction is 0.1, which leaves non"
    ):
        one.data.partition(0, 1)


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
    # For every seed the same: no run trains on what another was tuned on.
    assert len(seen) == 1
    none = text_task(bert, path, validation_fraction=0.0)
    assert len(none.data.partition(0, 1)) == 14
    with pytest.raises(
        ValueError, match="validation-fraction is 0, but the server nee"
    ):
        _ = none.data.validation


def lengths(examples):
    return everything(examples)["attention_mask"].sum(1).tolist()


def test_each_user_is_a_client(tmp_path, gpt2):
    write(tmp_path, "parquet", 30)
    settings = {"task": "causal-lm", "partitioner": "natural-id"}
    task = text_task(gpt2, tmp_path, user_column="author", **settings)
    whose = [
        {examples.table[int(row)]["author"] for row in examples.rows}
        for examples in (task.data.partition(i, 3) for i in range(3))
    ]
    assert sorted(map(sorted, whose)) == [["u0"], ["u1"], ["u2"]]
    with pytest.raises(ValueError, match="num_partitions = 4, but .* only 3 users"):
        task.data.partition(0, 4)
    task = text_task(gpt2, tmp_path, **settings)
    with pytest.raises(ValueError, match="no column that names users"):
        task.data.partition(0, 3)


def test_only_what_is_split_needs_a_user_column(tmp_path, gpt2):
    write(tmp_path, "csv", 30)
    write(tmp_path, "csv", 6, "test", author="nobody")
    settings = {"task": "causal-lm", "user_column": "author"}
    task = text_task(gpt2, tmp_path, partitioner="natural-id", **settings)
    assert len(task.data.test) == 6
    assert len(task.data.own(str(tmp_path / "news-test.csv"))) == 6


def test_rows_without_one_class_each_cannot_be_split_by_class(tmp_path, gpt2):
    task = text_task(
        gpt2, write(tmp_path, "csv"), task="causal-lm", partitioner="dirichlet"
    )
    with pytest.raises(
        ValueError, match="no one class each, allowed is iid or natural"
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


def count_tokenised(model, dataset, length=16, task="text-classification"):
    """Return how many texts are tokenised when a task is used anew."""
    calls, real = [], PreTrainedTokenizerFast.__call__

    def counted(self, given, **settings):
        calls.append(0 if given == [""] else len(given))
        return real(self, given, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "__call__", counted)
        data = text_task(model, dataset, task=task, max_length=length).data
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


def image_folder(folder, part, classes, count=4):
    pixels, _ = images(count * len(classes))
    for number, array in enumerate(pixels):
        path = folder / part / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return folder


def image_task(model, dataset, **settings):
    settings = {"task": "image-classification", "partitioner": "iid"} | settings
    return task_of(model=str(model), dataset=str(dataset), **settings)


def test_a_folder_of_images_has_a_class_a_folder(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee", "cow"])
    image_folder(tmp_path, "test", ["ant", "bee", "cow"], 2)
    task = image_task(vit, tmp_path)
    assert task.model.config.num_labels == 3
    assert everything(task.data.test)["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert everything(task.data.test)["pixel_values"].shape == (6, 3, 16, 16)


def test_folders_that_lack_a_class_do_not_number_the_rest_anew(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee", "cow"])
    image_folder(tmp_path, "test", ["ant", "cow"], 1)
    with pytest.raises(ValueError, match="test split has the classes ant, cow, which"):
        _ = image_task(vit, tmp_path).data.test
    device = image_folder(tmp_path / "device", "train", ["cow"], 2)
    with pytest.raises(ValueError, match="1 named classes, cow, of 3: set class-names"):
        image_task(vit, tmp_path, classes=3).data.own(str(device))
    task = image_task(vit, tmp_path, class_names="ant,bee,cow")
    assert everything(task.data.test)["labels"].tolist() == [0, 2]
    assert everything(task.data.own(str(device)))["labels"].tolist() == [2, 2]


def test_an_npz_file_has_both_splits(tmp_path, vit):
    (x, y), (x_test, y_test) = images(12), images(6, seed=1)
    path = tmp_path / "i.npz"
    np.savez(path, x_train=x, y_train=y[:, None], x_test=x_test, y_test=y_test)
    task = image_task(vit, path, train_split="train[:50%]", validation_fraction=0.0)
    assert len(task.data.partition(0, 1)) == 6
    assert everything(task.data.test)["labels"].tolist() == y_test.tolist()
    with pytest.raises(ValueError, match="'i.npz' has no x_dev, y_dev, but x_train"):
        load_rows(str(path), "dev")


def test_gray_images_and_models_of_one_channel(tmp_path):
    model = save_model(tmp_path / "gray", "vit", num_channels=1)
    (model / "preprocessor_config.json").unlink()
    x, y = images(8)
    np.savez(tmp_path / "i.npz", x_train=x[..., 0], y_train=y)
    batch = everything(image_task(model, tmp_path / "i.npz").data.partition(0, 1))
    assert batch["pixel_values"].shape == (7, 1, 16, 16)
    # Without a word of how it was trained: to [-1, 1].
    assert -1 <= batch["pixel_values"].min() < 0 < batch["pixel_values"].max() <= 1


def test_own_data_never_asks_the_hub_nor_the_runs_data(tmp_path, bert, monkeypatch):
    def forbidden(*args, **settings):
        raise AssertionError("the run's data was loaded")

    path = write(tmp_path, "csv", 7)
    monkeypatch.setattr("flasc_flwr.tasks.tables.load_rows", forbidden)
    monkeypatch.setattr("flasc_flwr.tasks.labels.load_rows", forbidden)
    monkeypatch.setattr("flasc_flwr.tasks.sources.load_dataset", forbidden)
    task = text_task(bert, "stanfordnlp/none", classes=2, user_column="nobody")
    assert len(task.data.own(str(path))) == 7
    with pytest.raises(ValueError, match="data-path is 'news/here', but on this node"):
        task.data.own("news/here")
    assert len(own_rows(str(tmp_path), "train[:50%]")) == 7
    with pytest.raises(AssertionError):
        task.data.partition(0, 1)


def test_no_such_file_is_none():
    from pathlib import Path

    assert rows_of_part(Path("/nowhere/at-all-*.csv"), "train") is None


def simulate(tmp_path, nodes=3, node_configs=None, **settings):
    settings = {"method": "dense"} | settings
    config = settings_of(**settings) | {"num-server-rounds": 1, "fraction-train": 1.0}
    grid = LocalGrid(
        client_app.app, nodes, run_config=config, node_configs=node_configs
    )
    (runs := tmp_path / "runs").mkdir()
    flat = {key.replace("-", "_"): value for key, value in config.items()}
    return run(runs, grid, **flat)


def test_a_run_in_which_one_device_has_its_own_data(tmp_path, bert):
    write(tmp_path, "parquet", 30)
    write(tmp_path, "parquet", 8, "test")
    (own := tmp_path / "own").mkdir()
    mine = write(own, "csv", 5)
    result = simulate(
        tmp_path,
        task="text-classification",
        model=str(bert),
        dataset=str(tmp_path),
        node_configs=[{}, {"data-path": str(mine)}, {"data-path": "/nowhere.csv"}],
        partitioner="flasc-dirichlet",
        head="mean",
        local_epochs=2,
    )
    first, last = result.history
    assert last["replies"] == 2
    (failure,) = last["failures"]
    assert "data-path is '/nowhere.csv', but on this node" in failure["reason"]
    # 27 rows of training, of which the first of three clients has about 9.
    assert 5 < last["train_steps"] * 4 <= 2 * (16 + 8)
    assert first["loss"] != last["loss"]


def test_a_run_of_a_language_model_with_a_client_for_each_user(tmp_path, gpt2):
    write(tmp_path, "jsonl", 30)
    write(tmp_path, "jsonl", 8, "test")
    result = simulate(
        tmp_path,
        task="causal-lm",
        model=str(gpt2),
        dataset=str(tmp_path / "news-*.jsonl"),
        partitioner="natural-id",
        user_column="author",
    )
    first, last = result.history
    assert last["replies"] == 3 and not last["failures"]
    assert last["loss"] < first["loss"]


def test_a_run_on_augmented_images(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee"], 12)
    image_folder(tmp_path, "test", ["ant", "bee"], 4)
    result = simulate(
        tmp_path,
        task="image-classification",
        model=str(vit),
        dataset=str(tmp_path),
        augment=True,
    )
    assert result.history[1]["replies"] == 3 and not result.history[1]["failures"]
    summary = json.loads((result.folder / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 1

"""Columns, labels and classes, and the errors if one is missing or wrong."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from tests.app.files import everything, text_task, write
from tests.app.tiny import (
    texts,
    write_jsonl,
)

pytestmark = pytest.mark.usefixtures("cache")


def test_columns_can_have_any_name_and_a_missing_one_is_named(tmp_path, bert):
    path = write(tmp_path, "csv", text="body", label="topic")
    task = text_task(bert, path, text_column="body", label_column="topic")
    assert everything(task.data.partition(0, 1))["labels"].shape == (18,)
    there = "one of the columns .* 3, got {}.*the columns are body, topic, author"
    with pytest.raises(
        ValueError, match="(?s)label-column .*" + there.format("'label'")
    ):
        text_task(bert, path, text_column="body")
    task = text_task(bert, path, label_column="topic")
    with pytest.raises(ValueError, match="(?s)text-column .*" + there.format("'text'")):
        task.data.partition(0, 1)
    names = {"text_column": "body", "label_column": "topic"}
    task = text_task(bert, path, user_column="who", **names)
    with pytest.raises(ValueError, match="(?s)user-column .*" + there.format("'who'")):
        task.data.partition(0, 1)


def test_a_column_of_numbers_is_not_text(tmp_path, bert):
    # In a CSV file, all cells are text.
    path = write(tmp_path, "jsonl")
    task = text_task(bert, path, text_column="label")
    with pytest.raises(
        ValueError, match="text-column must hold text, got 'label', .*int"
    ):
        task.data.partition(0, 1)


@pytest.mark.parametrize(("label", "kind"), [(2, "above 1"), (-1, "below 0")])
def test_a_label_out_of_range_is_named_with_its_row(tmp_path, bert, label, kind):
    rows = texts(10)
    rows[7]["label"] = label
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    task = text_task(bert, path, classes=2)
    expected = f"row 7 .* of label-column .* the integers 0 to 1, got an integer {kind}"
    with pytest.raises(ValueError, match=expected):
        task.data.partition(0, 1)


def test_named_classes_are_numbered_by_the_run(tmp_path, bert):
    rows = [row | {"label": ["good", "bad"][row["label"]]} for row in texts(10)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(
        ValueError, match="row 0 .* of label-column .* got text: set class-names"
    ):
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
    with pytest.raises(
        ValueError,
        match="row 1 .* of label-column .*class-names .*good, worse.* got text that",
    ):
        text_task(bert, path, class_names="good,worse").data.partition(0, 1)
    with pytest.raises(ValueError, match="classes must .* class-names, 2, got 3"):
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
    from flasc_flwr.app.config import RunConfig
    from flasc_flwr.app.tasks.labels import class_count

    assert class_count(RunConfig(dataset=str(tmp_path / "y.parquet"))) == 3


def test_data_without_rows_is_named(tmp_path, bert):
    path = tmp_path / "x.csv"
    for content, expected in (
        ("", "'x.csv' must have a header, got an empty file"),
        ("text,label\n", r"data files must have rows, got none in \['x.csv'\]"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=expected):
            text_task(bert, path)
        task = text_task(bert, path, classes=2)
        with pytest.raises(ValueError, match=expected):
            task.data.partition(0, 1)
        with pytest.raises(ValueError, match=expected):
            task.data.local_examples(str(path))
    one = text_task(bert, write(tmp_path, "csv", 1), classes=2)
    with pytest.raises(ValueError, match="validation-fraction .* got 0.1"):
        one.data.partition(0, 1)

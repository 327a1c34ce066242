"""Labels of your own data: names decide what a class is, never a guess."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from flasc_flwr.app.tasks.sources import load_rows
from tests.app.files import (
    own_pairs,
    pairs,
    tables_of,
    write_text,
)
from tests.app.tiny import write_jsonl

pytestmark = pytest.mark.usefixtures("cache")


def test_row_6_names_decide_whatever_type_the_file_has(tmp_path):
    labels = [1, 5, 3, 1]
    names = {"class_names": "1,2,3,4,5"}
    csv = write_text(
        tmp_path / "x.csv", "text,label\n" + "".join(f"t,{n}\n" for n in labels)
    )
    expected = [0, 4, 2, 0]
    for kind in (int, str, float, lambda n: f" {n} ", lambda n: f"{n}.0"):
        rows = [{"text": "t", "label": kind(n)} for n in labels]
        path = write_jsonl(tmp_path / "x.jsonl", rows)
        assert [label for _, label in own_pairs(path, **names)] == expected
    assert [label for _, label in own_pairs(csv, **names)] == expected
    for kind in ("int8", "uint16", "float32", "string", "category"):
        frame = pd.DataFrame({"text": "t", "label": labels}).astype({"label": kind})
        frame.to_parquet(tmp_path / "x.parquet")
        given = own_pairs(tmp_path / "x.parquet", **names)
        assert [label for _, label in given] == expected, kind


def test_row_6_integers_are_indices_only_without_names(tmp_path):
    for label in (1, "1", 1.0, "1.0"):
        rows = [{"text": "t", "label": label}]
        path = write_jsonl(tmp_path / "x.jsonl", rows)
        assert own_pairs(path, classes=3) == [("t", 1)]
        assert own_pairs(path, class_names="2,1") == [("t", 1)]
        assert own_pairs(path, class_names="1,2") == [("t", 0)]
        with pytest.raises(ValueError, match=r"class-names \(a, b\), got .* not one"):
            own_pairs(path, class_names="a,b")


@pytest.mark.parametrize("label", ["01", "1e0", "+1", "1.5", "one", "٣", "1_0"])
def test_row_6_text_that_is_not_a_plain_integer_needs_names(tmp_path, label):
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "t", "label": label}])
    with pytest.raises(ValueError, match="row 0 .* got text: set class-names to all"):
        own_pairs(path, classes=20)
    names = json.dumps(["other", label])
    assert own_pairs(path, class_names=names) == [("t", 1)]


def test_an_accented_letter_is_the_same_of_one_character_and_of_two(tmp_path):
    one, two = "caf\u00e9", "cafe\u0301"
    rows = [{"text": "t", "label": label} for label in (one, two, "tea")]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    for name in (one, two):
        given = own_pairs(path, class_names=f"tea,{name}")
        assert [label for _, label in given] == [1, 1, 0]
    rows = [{"text": row["label"], "label": 0} for row in rows]
    path = write_jsonl(tmp_path / "y.jsonl", rows)
    users = {"partitioner": "natural-id", "user_column": "text", "classes": 2}
    with pytest.raises(ValueError, match="num-partitions must be <= 2, the number of"):
        tables_of(path, **users).partition(0, 3)


def test_row_6_booleans_have_a_way(tmp_path):
    rows = [{"text": "t", "label": label} for label in (True, False)]
    paths = [write_jsonl(tmp_path / "x.jsonl", rows)]
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    paths += [tmp_path / "x.parquet", tmp_path / "x.csv"]
    for path in paths:
        assert own_pairs(path, class_names="false,true") == [("t", 1), ("t", 0)]
        assert own_pairs(path, class_names="True,False") == [("t", 0), ("t", 1)]
        with pytest.raises(ValueError, match="set class-names .*'false,true'"):
            own_pairs(path, classes=2)


def test_row_6_names_may_have_commas(tmp_path):
    path = write_text(tmp_path / "x.csv", 'text,label\nt,"a, b"\nt,"c"\nt,it\'s\n')
    names = '["c", "it\'s", "a, b"]'
    assert [label for _, label in own_pairs(path, class_names=names)] == [2, 0, 1]
    for wrong in ("a,,b", "a,a", '["a, b", "c"', '["a", 1]', '{"a": 1}, {"a": 1}'):
        expected = r"class-names must be .* JSON text such as \[\"a, b\", \"c\"\] where"
        with pytest.raises(ValueError, match=expected):
            tables_of(class_names=wrong)
    with pytest.raises(ValueError, match="class-names must be different also as numb"):
        tables_of(class_names="1,1.0")


def test_row_6_names_with_commas_pass_flowers_run_config():
    from flwr.common.config import parse_config_args

    text = """class-names='["a, b", "c"]' seed=1"""
    assert parse_config_args([text])["class-names"] == '["a, b", "c"]'


def test_row_6_a_devices_own_class_numbers_are_never_the_runs(tmp_path):
    """Also with as many classes: they may be others, or in another order."""
    names = Features(text=Value("string"), label=ClassLabel(names=["cow", "ant"]))
    path = tmp_path / "x.parquet"
    Dataset.from_dict({"text": ["c", "a"], "label": [0, 1]}, names).to_parquet(path)
    with pytest.raises(ValueError, match="data-path .* set class-names to all classes"):
        own_pairs(path, classes=2)
    assert own_pairs(path, class_names="ant,bee,cow") == [("c", 2), ("a", 0)]


def test_row_7_labels_that_are_ids_are_refused_with_both_numbers(tmp_path):
    rows = [{"text": "t", "label": 20_000_000 + n % 80} for n in range(400)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    expected = "(?s)got 80 different labels, .*class-names.* is 20000079"
    with pytest.raises(ValueError, match=expected):
        tables_of(path)
    names = ",".join(str(20_000_000 + n) for n in range(80))
    given = pairs(tables_of(path, class_names=names).partition(0, 1))
    assert {label for _, label in given} == set(range(80))


def test_row_7_more_classes_than_the_limit_are_refused(tmp_path):
    rows = [{"text": "t", "label": n} for n in range(120)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    expected = r"(?s)at most 100 classes \(max-classes\), got 120 different.* is 119"
    with pytest.raises(ValueError, match=expected):
        tables_of(path, max_classes=100)
    assert len(tables_of(path, max_classes=120).partition(0, 1)) == 120
    assert len(tables_of(path, max_classes=100, classes=120).partition(0, 1)) == 120
    # A few rows may lack most of the classes that there are.
    few = write_jsonl(tmp_path / "few.jsonl", rows[3:20:4])
    assert len(tables_of(few).partition(0, 1)) == 5


def test_one_class_is_not_a_classification(tmp_path):
    """Such a model would be trained as a regression by transformers."""
    path = write_text(tmp_path / "x.csv", "text,label\na,0\nb,0\n")
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        tables_of(path)


@pytest.mark.parametrize("partitioner", ["natural-id", "iid"])
def test_rows_without_a_user_are_named(tmp_path, partitioner):
    path = write_text(
        tmp_path / "x.csv", "text,label,user\na,0,u\nb,1,\nc,1,v\nd,1,10\n"
    )
    tables = tables_of(path, user_column="user", partitioner=partitioner)
    if partitioner == "iid":
        assert len(tables.partition(0, 2)) == 2
        return
    expected = "row 1 .* of user-column 'user' .* an empty cell: every row needs a user"
    with pytest.raises(ValueError, match=expected):
        tables.partition(0, 2)


def test_files_that_number_classes_differently_are_refused(tmp_path):
    for number, names in enumerate((["a", "b"], ["b", "a"])):
        features = Features(text=Value("string"), label=ClassLabel(names=names))
        rows = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features)
        rows.to_parquet(tmp_path / f"x-train-{number}.parquet")
    with pytest.raises(ValueError, match="store the same class names, got others in"):
        load_rows(str(tmp_path), "train")


def test_a_row_without_a_class_is_not_of_the_last_class(tmp_path):
    """Where -1 means none, as in many data sets on the hub."""
    names = Features(text=Value("string"), label=ClassLabel(names=["a", "b"]))
    path = tmp_path / "x.parquet"
    Dataset.from_dict({"text": ["x", "y"], "label": [1, -1]}, names).to_parquet(path)
    with pytest.raises(ValueError, match="row 1 .* got no class"):
        own_pairs(path, class_names="a,b")
    with pytest.raises(ValueError, match="row 1 .* got no class"):
        tables_of(path).partition(0, 1)


def test_a_label_that_is_not_a_number_is_empty(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": [1.0, np.nan]})
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 1 .* an empty cell"):
        own_pairs(tmp_path / "x.parquet", classes=2)


@pytest.mark.parametrize("kind", [int, float, bool])
@pytest.mark.parametrize(
    "flags",
    [[[0, 1, 0], [1, 0, 1]], [[0, 0, 1, 0]] * 2, [[0, 1], [1, 0]], [[1, 1], [1, 1]]],
)
@pytest.mark.parametrize("settings", [{}, {"classes": 4}])
def test_a_0_or_1_for_each_class_is_not_taken_for_classes(
    tmp_path, flags, kind, settings
):
    rows = [{"text": "t", "label": [kind(n) for n in row]} for row in flags]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    task = {"task": "image-classification", "multi_label": True}
    with pytest.raises(ValueError, match=r"got a 0 or 1 for each class: write \[0, 2"):
        tables_of(path, **task, **settings).partition(0, 1)


@pytest.mark.parametrize(
    "lists",
    [
        [[0, 1], [0], [1]],
        [[0, 1], [0, 1]],
        [[0], [1]],
        [[], [1], []],
        [[0, 0, 1], [1, 1]],
        [[0, 1, 2], [1, 0, 2]],
    ],
)
def test_lists_of_few_classes_stay_classes(tmp_path, lists):
    rows = [{"text": "t", "label": row} for row in lists]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    given = own_pairs(path, task="image-classification", multi_label=True, classes=3)
    assert [label for _, label in given] == lists

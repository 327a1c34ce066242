"""Your own tables: what is in the file is trained on, or an error says what to do."""

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from flasc_flwr.app.tasks.sources import device_rows, load_rows
from tests.app.files import (
    everything,
    own_pairs,
    pairs,
    tables_of,
    text_task,
    write_text,
)
from tests.app.tiny import write_jsonl

pytestmark = pytest.mark.usefixtures("cache")

GOOD = "text,label\ngood,1\nbad,0\n"
WRONG = "text,label\nwrong,1\nwrong,0\n"
RIGHT = [("good", 1), ("bad", 0)]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("proj [v2]", "proj v"),
        ("a*c", "abc"),
        ("a?c", "abc"),
        ("a{b,c}", "ab"),
        ("a::b", "a"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_row_3_an_existing_path_is_never_a_pattern(tmp_path, right, wrong, kind):
    for folder, content in ((right, ["good", "bad"]), (wrong, ["wrong"] * 2)):
        (tmp_path / folder).mkdir()
        frame = pd.DataFrame({"text": content, "label": [1, 0]})
        path = tmp_path / folder / f"train.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
    file = tmp_path / right / f"train.{kind}"
    for path in (file, tmp_path / right, tmp_path / right / "tr*n.*"):
        assert sorted(pairs(tables_of(path).partition(0, 1))) == sorted(RIGHT), path
        assert own_pairs(path, classes=2) == RIGHT, path


def test_row_3_brackets_stand_for_themselves_in_patterns_too(tmp_path):
    write_text(tmp_path / "proj v" / "train.csv", WRONG)
    missing = str(tmp_path / "proj [v2]" / "*.csv")
    with pytest.raises(ValueError, match="dataset must be a file or a folder"):
        load_rows(missing, "train")
    with pytest.raises(ValueError, match="data-path must be a file or a folder"):
        device_rows(missing, "train")


@pytest.mark.parametrize("path", ["news.csv", "./news", "a/b/c", "news-*", "folder"])
def test_row_3_a_relative_path_is_refused_with_the_reason(tmp_path, monkeypatch, path):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="dataset must be an absolute path, since the"):
        load_rows(path, "train")
    with pytest.raises(ValueError, match="data-path must be the absolute path .* node"):
        device_rows(path, "train")


def test_row_4_a_csv_row_wider_than_its_header_is_named(tmp_path):
    path = write_text(
        tmp_path / "x.csv", 'text,label\n"a\nb",0\nI loved it, number 1,1\n'
    )
    expected = "line 4 of data file 'x.csv' must have 2 fields .* got 3: put fields"
    with pytest.raises(ValueError, match=expected):
        tables_of(path)
    with pytest.raises(ValueError, match=expected):
        own_pairs(path, classes=2)


def test_row_4_a_csv_row_wider_than_its_header_in_every_row(tmp_path):
    """Where pandas takes the first field of all rows for an index."""
    path = write_text(tmp_path / "x.csv", "text,label\na,good,1\nb,bad,0\n")
    with pytest.raises(ValueError, match="line 2 of .* 2 fields .* got 3"):
        own_pairs(path, classes=2)


def test_row_4_a_csv_row_narrower_than_its_header_is_named(tmp_path):
    path = write_text(tmp_path / "x.csv", "text,label\ngood,1\nbad\n")
    with pytest.raises(ValueError, match="line 3 of .* 2 fields .* got 1"):
        own_pairs(path, classes=2)


WORDS = ["null", "None", "NA", "nan", "N/A", "NULL", "#N/A", "NaN", "n/a", "<NA>"]


def test_row_5_words_that_mean_nothing_to_a_library_are_words(tmp_path):
    path = write_text(
        tmp_path / "x.csv",
        "text,label\n" + "".join(f"{word},{word}\n" for word in WORDS),
    )
    given = own_pairs(path, class_names=",".join(WORDS))
    assert given == [(word, number) for number, word in enumerate(WORDS)]


def test_row_5_only_an_empty_cell_is_empty(tmp_path):
    path = write_text(tmp_path / "x.csv", 'text,label\n,1\n"",0\nNA,1\n')
    assert own_pairs(path, classes=2) == [("", 1), ("", 0), ("NA", 1)]
    write_text(path, "text,label\na,0\nb,1\nc,\n")
    expected = "row 2 .* of label-column 'label' .* an empty cell: every row needs a"
    with pytest.raises(ValueError, match=expected):
        own_pairs(path, classes=2)
    with pytest.raises(ValueError, match=expected):
        tables_of(path)


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


def test_files_in_a_folder_of_the_split_are_read(tmp_path):
    write_text(tmp_path / "train" / "part-0.csv", GOOD)
    write_text(tmp_path / "train" / "part-1.csv", GOOD)
    write_text(tmp_path / "train" / ".part-2.csv", WRONG)
    assert len(load_rows(str(tmp_path), "train")) == 4
    assert len(load_rows(str(tmp_path), "train[:50%]")) == 2
    write_text(tmp_path / "news-train.csv", GOOD)
    with pytest.raises(ValueError, match="'train' rows of a folder .* got both"):
        load_rows(str(tmp_path), "train")


@pytest.mark.parametrize(
    "name", ["train-1.csv.gz", "train-1.tsv", "train-1.xlsx", "train.tsv"]
)
@pytest.mark.parametrize("folder", ["", "train"])
def test_rows_in_a_format_that_is_not_read_are_not_left_out(tmp_path, name, folder):
    write_text(tmp_path / folder / "train.csv", GOOD)
    write_text(tmp_path / folder / name, "x")
    with pytest.raises(ValueError, match=f"one format of .* and {name!r}"):
        load_rows(str(tmp_path), "train")


def test_what_is_not_rows_is_left_out(tmp_path):
    write_text(tmp_path / "train.csv", GOOD)
    for name in ("train.csv.zip", "train.zip", ".train-1.tsv", "other.gz", "train.md"):
        write_text(tmp_path / name, "x")
    assert len(load_rows(str(tmp_path), "train")) == 2


def test_tables_in_folders_below_that_of_a_split_are_not_left_out(tmp_path):
    write_text(tmp_path / "train" / "a.csv", GOOD)
    write_text(tmp_path / "train" / ".checkpoints" / "a.csv", GOOD)
    assert len(load_rows(str(tmp_path), "train")) == 2
    write_text(tmp_path / "train" / "more" / "b.csv", GOOD)
    with pytest.raises(ValueError, match="'train' must be in that folder, got others"):
        load_rows(str(tmp_path), "train")


def test_no_file_is_of_two_splits(tmp_path):
    for name in ("x-train.csv", "x-test.csv"):
        write_text(tmp_path / name, GOOD)
    both = write_text(tmp_path / "x-train-test.csv", GOOD)
    for split in ("train", "test"):
        for path in (tmp_path, tmp_path / "x-*.csv"):
            with pytest.raises(ValueError, match="the name of one split in its name"):
                load_rows(str(path), split)
    # A single file is "train", whatever its name.
    assert len(load_rows(str(both), "train")) == 2
    with pytest.raises(ValueError, match="dataset is only .* no 'test' rows"):
        load_rows(str(both), "test")


def test_local_data_has_no_configurations(tmp_path):
    path = write_text(tmp_path / "x.csv", GOOD)
    with pytest.raises(ValueError, match="dataset-config must be '' .* got 'fr'"):
        load_rows(str(path), "train", "fr")


def test_empty_texts_are_counted_in_the_log(tmp_path, bert, caplog):
    # Rows of a file that calls the column otherwise, for instance.
    rows = [{"text": "cat", "label": 1}, {"Text": "dog", "label": 0}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    task = text_task(bert, tmp_path / "x.jsonl", validation_fraction=0.0)
    everything(task.data.partition(0, 1))
    assert "1 of 2 texts are empty (text)" in caplog.text


def test_folders_of_save_to_disk_are_read(tmp_path):
    parts = {
        part: Dataset.from_dict({"text": [part] * 3, "label": [0, 1, 0]})
        for part in ("train", "test")
    }
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    for part in parts:
        assert load_rows(str(tmp_path / "both"), part)["text"][:] == [part] * 3
    # A cache that `map` left there is not data.
    written = Dataset.load_from_disk(str(tmp_path / "both" / "train"))
    written.map(lambda row: {"text": "wrong"})
    assert load_rows(str(tmp_path / "both"), "train")["text"][:] == ["train"] * 3
    with pytest.raises(ValueError, match="must be one of train, test, got 'dev'"):
        load_rows(str(tmp_path / "both"), "dev")
    parts["train"].save_to_disk(tmp_path / "one")
    assert len(load_rows(str(tmp_path / "one"), "train[:1]")) == 1
    with pytest.raises(ValueError, match="'one', which has no 'test' rows: .*80%"):
        load_rows(str(tmp_path / "one"), "test")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('text,label\n"open,1\nbad,0\n', "begins in line 2 .* quotes in pairs"),
        ('text,label\ngood,1\n"a" b,0\n', "begins in line 3 .* quotes in pairs"),
        ("text;label\ngood;1\n", "has 1 .*separated by commas"),
        ("text,label,text\na,1,b\n", "(?s)same name twice.*text, label, text"),
        ("good,1\nbad,0\n", "(?s)columns of the data, which has 2.*good, 1"),
        ("\ufefftext,label\n", "must have rows, got none in"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_one_sentence(tmp_path, content, expected):
    path = write_text(tmp_path / "x.csv", content)
    with pytest.raises(ValueError, match=expected) as raised:
        own_pairs(path, classes=2)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"\n', "line 1 of .* one object a line"),
        ('{"text": "a", "label": 1}\n[1]\n', "line 2 of .* an object such as"),
        ('{"text": "a", "label": 1, "label": 0}\n', "line 1 .* same name twice"),
        ('{"text": "\\ud800", "label": 1}\n', "row 0 of .* half of a surrogate pair"),
        ('[{"text": "a", "label": 1}, 2]', "row 1 of .* an object such as"),
        ('{"text": ["a"], "label": 1}\n', "text-column .* text"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_one_sentence(
    tmp_path, bert, content, expected
):
    path = write_text(tmp_path / "x.json", content)
    task = text_task(bert, path, classes=2)
    with pytest.raises(ValueError, match=expected) as raised:
        task.data.local_examples(str(path))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_in_another_encoding_is_named_with_its_line(tmp_path, encoding, kind):
    line = "café,1" if kind == "csv" else '{"text": "café", "label": 1}'
    path = write_text(tmp_path / f"x.{kind}", f"text,label\n{line}\n", encoding)
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(ValueError, match=f"UTF-8 text, got other bytes in line {line}"):
        own_pairs(path, classes=2)


def test_a_damaged_parquet_file_is_named(tmp_path):
    pd.DataFrame({"text": ["a"], "label": [1]}).to_parquet(tmp_path / "whole.parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="'x.parquet' must be a whole .parquet file"):
        own_pairs(path, classes=2)


def test_what_files_of_this_kind_often_have_is_read(tmp_path):
    """A byte order mark, an index without a name, spaces, old line ends, capitals."""
    for name, content, encoding in (
        ("mark.csv", GOOD, "utf-8-sig"),
        ("index.csv", ",text,label\n0,good,1\n1,bad,0\n", "utf-8"),
        ("spaces.csv", "text, label\ngood, 1\nbad, 0\n", "utf-8"),
        ("lines.csv", GOOD.replace("\n", "\r"), "utf-8"),
        ("blank.csv", "\n\ntext, label\n\ngood,1\n\nbad,0\n\n", "utf-8"),
        ("CAPITALS.CSV", GOOD, "utf-8"),
        ("long.csv", f"text,label,more\ngood,1,{'x' * 300_000}\nbad,0,\n", "utf-8"),
        ("array.json", '[{"text": "good", "label": 1},{"text":"bad","label":0}]', ""),
    ):
        path = write_text(tmp_path / name, content, encoding or "utf-8")
        assert own_pairs(path, classes=2) == RIGHT, name


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    for texts in (["2020-01-01", "2021-01-01T00:00:00"], ["007", "7"], ["1.0", "1"]):
        rows = [{"text": text, "label": 1} for text in texts]
        path = write_jsonl(tmp_path / "x.jsonl", rows)
        assert [text for text, _ in own_pairs(path, classes=2)] == texts
        pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
        given = own_pairs(tmp_path / "x.csv", classes=2)
        assert [text for text, _ in given] == texts


def test_json_values_of_several_types_are_text_as_in_a_csv_file(tmp_path):
    """Also where another type comes after more rows than are looked at once."""
    rows = [{"text": "t", "label": n % 2} for n in range(10_050)]
    rows += [{"text": 5, "label": "1"}, {"text": None, "label": 0, "meta": [1]}]
    rows += [{"text": "t", "label": 1, "meta": "one"}]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    assert own_pairs(path, classes=2)[-3:] == [("5", 1), ("", 0), ("t", 1)]


def test_files_of_one_split_belong_together(tmp_path):
    write_text(tmp_path / "x-train-0.csv", "text,label\ngood,1\n")
    write_text(tmp_path / "x-train-1.csv", "label,text\n0,bad\n")
    assert own_pairs(tmp_path, classes=2) == RIGHT
    write_text(tmp_path / "x-train-1.csv", "body,label\nbad,0\n")
    with pytest.raises(ValueError, match="same columns, got others in 'x-train-1.csv'"):
        own_pairs(tmp_path, classes=2)


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


def test_a_file_that_changes_is_read_again(tmp_path):
    path = write_text(tmp_path / "x.csv", GOOD)
    assert own_pairs(path, classes=2) == RIGHT
    write_text(path, GOOD.replace("good", "fine"))
    assert own_pairs(path, classes=2)[0] == ("fine", 1)


def test_wrong_slices_are_named(tmp_path):
    path = write_text(tmp_path / "x.csv", GOOD)
    for split in ("train[:x]", "train[", "train[:1]+train[1:]"):
        with pytest.raises(ValueError, match="a split must be a name or a slice"):
            load_rows(str(path), split)
    for split in ("train[5:9]", "train[2:]", "train[1:1]"):
        with pytest.raises(ValueError, match="with rows of the 2 that there are"):
            load_rows(str(path), split)


@pytest.mark.parametrize("user", ["labels", "label", "input_ids", "text"])
def test_columns_may_have_the_names_of_inputs(tmp_path, bert, user):
    columns = ["text", "label", "labels", "input_ids", "image"]
    path = write_text(
        tmp_path / "x.csv", f"{','.join(columns)}\ncat,1,9,8,a\ndog,0,9,7,b\n"
    )
    settings = {"partitioner": "natural-id", "validation_fraction": 0.0}
    task = text_task(bert, path, user_column=user, **settings)
    assert everything(task.data.partition(0, 1))["labels"].numel() == (
        2 if user == "labels" else 1
    )


def test_a_link_to_a_file_that_is_gone_is_an_error(tmp_path):
    write_text(tmp_path / "x-train-0.csv", GOOD)
    (tmp_path / "x-train-1.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(
        ValueError, match="'x-train-1.csv' must be readable, got: No su"
    ):
        load_rows(str(tmp_path), "train")


def test_a_column_of_a_type_that_cannot_be_read_is_named(tmp_path):
    ages = pd.arrays.IntervalArray.from_breaks([0, 30, 90])
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1], "age": ages})
    frame.to_parquet(tmp_path / "x.parquet")
    expected = "(?s)got one of .*interval.*: leave it out.*the column is 'age'"
    with pytest.raises(ValueError, match=expected):
        own_pairs(tmp_path / "x.parquet", classes=2)

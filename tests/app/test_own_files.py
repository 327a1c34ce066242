"""Your own files: which are read for a split, and which are refused."""

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from flasc_flwr.app.tasks.sources import device_rows, load_rows
from tests.app.files import (
    GOOD,
    RIGHT,
    WRONG,
    own_pairs,
    pairs,
    tables_of,
    write_text,
)

pytestmark = pytest.mark.usefixtures("cache")


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


def test_files_of_one_split_belong_together(tmp_path):
    write_text(tmp_path / "x-train-0.csv", "text,label\ngood,1\n")
    write_text(tmp_path / "x-train-1.csv", "label,text\n0,bad\n")
    assert own_pairs(tmp_path, classes=2) == RIGHT
    write_text(tmp_path / "x-train-1.csv", "body,label\nbad,0\n")
    with pytest.raises(ValueError, match="same columns, got others in 'x-train-1.csv'"):
        own_pairs(tmp_path, classes=2)


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


def test_a_link_to_a_file_that_is_gone_is_an_error(tmp_path):
    write_text(tmp_path / "x-train-0.csv", GOOD)
    (tmp_path / "x-train-1.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(
        ValueError, match="'x-train-1.csv' must be readable, got: No su"
    ):
        load_rows(str(tmp_path), "train")

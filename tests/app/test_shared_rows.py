"""A test on rows that clients train on is refused, or is in the log."""

import pandas as pd
import pytest
from datasets import Dataset

from flasc_flwr.app.tasks.shared_rows import say_shared_rows, say_shared_slices
from tests.app.files import image_folder, image_task, tables_of, text_task, write_text
from tests.app.tiny import save_model, texts


def rows_of(lists):
    return Dataset.from_dict({"input_ids": lists})


def test_equal_rows_are_counted(caplog):
    train = rows_of([[1, 2], [3], [1, 2, 3], [4]])
    say_shared_rows(train, rows_of([[1], [2, 3], [3, 4]]))
    assert caplog.text == ""
    # Also where only some rows of a table are used.
    say_shared_rows(train.select([2, 1]), rows_of([[3], [4], [1, 2, 3], [3], [1, 2]]))
    assert "3 of 5 test rows are the same text as a training row" in caplog.text


def test_images_are_left_alone(caplog):
    rows = Dataset.from_dict({"image": [[1], [2]]})
    say_shared_rows(rows, rows)
    assert caplog.text == ""


def test_the_same_split_for_both_is_refused(tmp_path):
    path = write_text(tmp_path / "x.csv", "text,label\na,0\nb,1\nc,0\n")
    tables = tables_of(path, test_split="train")
    with pytest.raises(ValueError, match="test-split must have other rows than train-"):
        _ = tables.test


def test_a_run_says_which_test_rows_it_trains_on(tmp_path, caplog):
    model = save_model(tmp_path / "bert", "bert")
    frame = pd.DataFrame(texts(40))
    frame.to_csv(tmp_path / "a.csv", index=False)
    sets = {"train_split": "train[:30]", "test_split": "train[20:]"}
    task = text_task(model, tmp_path / "a.csv", validation_fraction=0.1, **sets)
    assert len(task.data.test) == 20
    assert " of 20 test rows are the same text as a training row" in caplog.text


@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train", "train[50%:]", "4 of 4"),
        ("train[:6]", "train[50%:]", "2 of 4"),
        ("train[:25%]+train[6:]", "train[1:7]", "2 of 6"),
        ("train[:4]", "train[4:]", ""),
        ("train[:-2]", "train[-2:]", ""),
        ("train", "test[2:]", ""),
        ("train+test", "test", "4 of 4"),
    ],
)
def test_slices_that_overlap_are_in_the_log(caplog, train, test, shared):
    say_shared_slices(train, test, {"train": 8, "test": 4}.__getitem__)
    said = f"{shared} test rows are training rows"
    assert (said in caplog.text) if shared else caplog.text == ""


def test_images_that_are_tested_and_trained_on_are_in_the_log(tmp_path, caplog):
    folder = image_folder(tmp_path / "images", "train", ["cat", "dog"], 4)
    vit = save_model(tmp_path / "vit", "vit")
    settings = {"test_split": "train[6:]", "validation_fraction": 0.0}
    task = image_task(vit, folder, **settings)
    assert len(task.data.test) == 2
    assert "2 of 2 test rows are training rows" in caplog.text

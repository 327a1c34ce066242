"""Images in folders and in npz files."""

import numpy as np
import pytest

from flasc_flwr.app.tasks.sources import load_rows
from tests.app.files import everything, image_folder, image_task
from tests.app.tiny import (
    images,
    save_model,
)

pytestmark = pytest.mark.usefixtures("cache")


def test_each_folder_of_images_is_a_class(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee", "cow"])
    image_folder(tmp_path, "test", ["ant", "bee", "cow"], 2)
    task = image_task(vit, tmp_path)
    assert task.model.config.num_labels == 3
    assert everything(task.data.test)["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert everything(task.data.test)["pixel_values"].shape == (6, 3, 16, 16)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    image_folder(tmp_path, "train", ["ant", "test"])
    rows = load_rows(str(tmp_path), "train")
    assert rows.features["label"].names == ["ant", "test"]
    assert rows["label"][:] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_folders_that_lack_a_class_do_not_renumber_the_others(tmp_path, vit):
    image_folder(tmp_path, "train", ["ant", "bee", "cow"])
    image_folder(tmp_path, "test", ["ant", "cow"], 1)
    with pytest.raises(
        ValueError, match="(?s)test-split .* train-split, got 2 .*ant, cow"
    ):
        _ = image_task(vit, tmp_path).data.test
    device = image_folder(tmp_path / "device", "train", ["cow"], 2)
    with pytest.raises(ValueError, match="(?s)data-path .* set class-names .*cow"):
        image_task(vit, tmp_path, classes=3).data.local_examples(str(device))
    task = image_task(vit, tmp_path, class_names="ant,bee,cow")
    assert everything(task.data.test)["labels"].tolist() == [0, 2]
    assert everything(task.data.local_examples(str(device)))["labels"].tolist() == [
        2,
        2,
    ]


def test_an_npz_file_has_both_splits(tmp_path, vit):
    (x, y), (x_test, y_test) = images(12), images(6, seed=1)
    path = tmp_path / "i.npz"
    np.savez(path, x_train=x, y_train=y[:, None], x_test=x_test, y_test=y_test)
    task = image_task(vit, path, train_split="train[:50%]", validation_fraction=0.0)
    assert len(task.data.partition(0, 1)) == 6
    assert everything(task.data.test)["labels"].tolist() == y_test.tolist()
    with pytest.raises(
        ValueError, match="(?s)'i.npz' must have .*got no x_dev and no y_dev.*x_train"
    ):
        load_rows(str(path), "dev")


def test_gray_images_and_models_of_one_channel(tmp_path):
    model = save_model(tmp_path / "gray", "vit", num_channels=1)
    (model / "preprocessor_config.json").unlink()
    x, y = images(8)
    np.savez(tmp_path / "i.npz", x_train=x[..., 0], y_train=y)
    batch = everything(image_task(model, tmp_path / "i.npz").data.partition(0, 1))
    assert batch["pixel_values"].shape == (7, 1, 16, 16)
    # Without a preprocessor_config.json, pixels are scaled to [-1, 1].
    assert -1 <= batch["pixel_values"].min() < 0 < batch["pixel_values"].max() <= 1

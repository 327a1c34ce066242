"""Your own images: pixels by the range of their mode, and folders that are classes."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from datasets import Dataset, Features, Image, Value

from flasc_flwr.app.tasks.images import open_image, pixels_of
from flasc_flwr.app.tasks.sources import load_rows
from tests.app.files import everything, image_folder, image_task
from tests.app.tiny import images, write_jsonl

pytestmark = pytest.mark.usefixtures("cache")

RAMP = np.linspace(0, 1, 16 * 16).reshape(16, 16)
"""From black to white."""


def stored(image, format="PNG"):
    file = io.BytesIO()
    image.save(file, format)
    return {"bytes": file.getvalue(), "path": None}


def sixteen_bits(kind="<u2"):
    return PIL.Image.fromarray((RAMP * 65535).astype(kind))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("format", "kind"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")]
)
def test_row_8_images_of_16_bits_keep_their_range(channels, format, kind):
    given = pixels_of(stored(sixteen_bits(kind), format), channels, "row 0")
    assert given.dtype == np.float32 and given.shape == (16, 16, channels)
    for channel in range(channels):
        np.testing.assert_allclose(given[..., channel], RAMP, atol=1e-4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_row_8_modes_of_8_bits_keep_their_range(mode, channels):
    halves = PIL.Image.new("RGB", (4, 4), "black")
    halves.paste("white", (0, 0, 2, 4))
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    given = pixels_of(stored(halves.convert(mode), format), channels, "row 0")
    assert given.shape == (4, 4, channels)
    np.testing.assert_allclose(given[:, :2], 1, atol=0.01)
    np.testing.assert_allclose(given[:, 2:], 0, atol=0.01)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_row_8_modes_without_a_known_range_are_refused(kind):
    image = PIL.Image.fromarray((RAMP * 100).astype(kind))
    with pytest.raises(ValueError, match="row 0 must have 8 or 16 bits .* mode '[FI]'"):
        open_image(stored(image, "TIFF"), "row 0")


def test_row_8_a_float_tiff_is_found_when_the_data_is_loaded(tmp_path, vit):
    folder = image_folder(tmp_path, "train", ["ant", "bee"])
    path = folder / "train" / "bee" / "9.tiff"
    PIL.Image.fromarray(RAMP.astype(np.float32)).save(path)
    task = image_task(vit, folder)
    with pytest.raises(ValueError, match=r"(?s)row 8 .*mode 'F'.*bee/9\.tiff"):
        task.data.partition(0, 1)


def test_row_8_a_folder_level_deeper_is_never_a_class(tmp_path):
    image_folder(tmp_path / "below", "train", ["ant", "bee/small", "bee/large"])
    image_folder(tmp_path / "above", "train", ["animals/ant", "animals/bee"])
    for case in ("below", "above"):
        expected = "(?s)'train' must hold images only, got a folder in one.*it is '/"
        with pytest.raises(ValueError, match=expected):
            load_rows(str(tmp_path / case), "train")


def test_row_8_a_damaged_image_is_named(tmp_path, vit):
    folder = image_folder(tmp_path, "train", ["ant", "bee"])
    path = folder / "train" / "ant" / "2.png"
    whole = path.read_bytes()
    task = image_task(vit, folder, validation_fraction=0.0)
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"(?s)row 1 .* cannot be opened .*ant/2\.png"):
        task.data.partition(0, 1)
    # The header is whole, and the pixels are not.
    path.write_bytes(whole[: len(whole) // 2])
    task = image_task(vit, folder, validation_fraction=0.0)
    examples = task.data.partition(0, 1)
    with pytest.raises(ValueError, match=r"(?s)row 1 .* a damaged one.*ant/2\.png"):
        everything(examples)


def test_files_beside_the_folders_of_classes_are_named(tmp_path):
    folder = image_folder(tmp_path, "train", ["ant", "bee"])
    image_folder(tmp_path / "flat", "train", ["."])
    for path in (folder / "train" / "notes.txt", folder / "train" / "ant" / "x.txt"):
        path.write_text("not an image")
        with pytest.raises(ValueError, match="(?s)'train' must hold .*" + path.name):
            load_rows(str(folder), "train")
        path.unlink()
    for system in (".DS_Store", "Thumbs.db", "ant/.hidden.png", "__MACOSX/._0.png"):
        path = folder / "train" / system
        path.parent.mkdir(exist_ok=True)
        path.write_text("not an image")
    assert load_rows(str(folder), "train").features["label"].names == ["ant", "bee"]
    with pytest.raises(ValueError, match="must hold a folder of images for each class"):
        load_rows(str(tmp_path / "flat"), "train")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"x_train": lambda x: x / 255}, "x_train .* uint8 .* got float64 of shape"),
        ({"x_train": lambda x: x.astype(np.uint16)}, "x_train .* got uint16"),
        ({"x_train": lambda x: x.transpose(0, 3, 1, 2)}, r"got uint8 .*\(8, 3, 16, 16"),
        ({"x_train": lambda x: x.reshape(8, -1)}, r"got uint8 of shape \(8, 768\)"),
        ({"y_train": lambda y: np.eye(2)[y]}, r"y_train .* one class .* \(8, 2\)"),
        ({"y_train": lambda y: y[:5]}, r"one class for each of 8 images, .* \(5,\)"),
        ({"y_train": lambda y: y.astype(object)}, "must be a whole npz file of plain"),
    ],
)
def test_arrays_of_other_dtypes_and_axes_are_named(tmp_path, change, expected):
    x, y = images(8)
    arrays = {"x_train": x, "y_train": y}
    for name, changed in change.items():
        arrays[name] = changed(arrays[name])
    np.savez(tmp_path / "i.npz", **arrays)
    with pytest.raises(ValueError, match=expected):
        load_rows(str(tmp_path / "i.npz"), "train")


def test_arrays_of_one_or_four_channels_and_other_labels_are_read(tmp_path, vit):
    x, y = images(8)
    for pixels in (x[..., :1], x[..., 0], np.concatenate([x, x[..., :1]], axis=3)):
        for labels in (y.astype(float), y[:, None], y.astype(str)):
            np.savez(tmp_path / "i.npz", x_train=pixels, y_train=labels)
            task = image_task(vit, tmp_path / "i.npz", validation_fraction=0.0)
            batch = everything(task.data.local_examples(str(tmp_path / "i.npz")))
            assert batch["labels"].tolist() == y.tolist()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a nice film", "the absolute path of one, got other text"),
        ("images/1.png", "the absolute path of one, got other text"),
        ("https://example.org/1.png", "the absolute path of one, got other text"),
        ("/nowhere/1.png", "got a path where no file is"),
        (None, "must be an image, got an empty cell"),
        (5, "image-column must hold images, or paths of files, .* int64"),
    ],
)
def test_what_is_not_an_image_is_named(tmp_path, vit, image, expected):
    rows = [{"image": image, "label": n % 2} for n in range(2)]
    if image is None:
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
        rows[0]["image"] = str(tmp_path / "1.png")
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    task = image_task(vit, path, classes=2)
    with pytest.raises(ValueError, match=expected) as raised:
        task.data.local_examples(str(path))
    assert "nice" not in str(raised.value) and "1.png" not in str(raised.value)


def test_an_image_of_many_frames_is_refused():
    frames = [PIL.Image.new("L", (4, 4), shade) for shade in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="row 0 must be one image, got one of many"):
        open_image({"bytes": file.getvalue(), "path": None}, "row 0")


def test_photos_are_turned_upright():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    image = PIL.Image.fromarray(pixels)
    image.getexif()[PIL.Image.ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=image.getexif())
    given = pixels_of({"bytes": file.getvalue(), "path": None}, 3, "row 0")
    assert given.shape == (16, 8, 3)
    assert given[:8].min() == 1 and given[8:].max() == 0


def test_images_stored_in_parquet_are_those_of_the_files(tmp_path, vit):
    folder = image_folder(tmp_path, "train", ["ant", "bee"])
    rows = load_rows(str(folder), "train")
    rows.to_parquet(tmp_path / "x.parquet")
    names = {"class_names": "ant,bee", "validation_fraction": 0.0}
    expected, given = (
        everything(image_task(vit, path, **names).data.local_examples(str(path)))
        for path in (folder, tmp_path / "x.parquet")
    )
    for name in expected:
        np.testing.assert_array_equal(expected[name], given[name])
    # Bytes of files, as pandas writes them.
    frame = pd.DataFrame(
        {
            "image": [Path(row["path"]).read_bytes() for row in undecoded(rows)],
            "label": rows["label"][:],
        }
    )
    frame.to_parquet(tmp_path / "bytes.parquet")
    task = image_task(vit, tmp_path / "bytes.parquet", classes=2)
    given = everything(task.data.local_examples(str(tmp_path / "bytes.parquet")))
    for name in expected:
        np.testing.assert_array_equal(expected[name], given[name])


def undecoded(rows):
    return [row["image"] for row in rows.cast_column("image", Image(decode=False))]


def test_lists_of_classes_and_single_classes_are_not_mixed(tmp_path, vit):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    features = Features(image=Value("string"), label=[Value("int64")])
    rows = {"image": [str(tmp_path / "1.png")] * 2, "label": [[0], [0, 1]]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "x.parquet")
    task = image_task(vit, tmp_path / "x.parquet")
    expected = "row 0 .* must be one of the integers 0 to 1, got a list: multi-label"
    with pytest.raises(ValueError, match=expected):
        task.data.partition(0, 1)
    one = write_jsonl(
        tmp_path / "x.jsonl", [{"image": rows["image"][0], "label": 1}] * 2
    )
    task = image_task(vit, one, multi_label=True)
    with pytest.raises(
        ValueError, match="row 0 .* a list of the integers .* got an in"
    ):
        task.data.partition(0, 1)

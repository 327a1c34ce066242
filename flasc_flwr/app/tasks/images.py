"""Images: folders of them, npz files, and their pixels by the range of their mode."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from datasets import ClassLabel, Dataset, Features, Image, Value
from numpy.typing import NDArray

from flasc_flwr.app.tasks.data_errors import DataError, cell, kind_of

_MODES = {1: "L", 3: "RGB"}
_EIGHT_BITS = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
    *("CMYK", "YCbCr", "HSV", "LAB"),
)
"""Modes that Pillow converts by their range."""
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Modes of one channel of 0 to 65535; Pillow would cut them off at 255."""


def image_folder(folder: Path, split: str) -> Dataset:
    """Return images and classes of the folder ``<split>/<class>/``.

    Raises
    ------
    DataError
        If there is anything but images in folders of classes.
    """
    paths: list[str] = []
    classes: list[str] = []
    inside = [path for path in sorted((folder / split).iterdir()) if _counts(path)]
    for each in inside:
        if not each.is_dir():
            raise DataError(
                f"the folder {split!r} must hold a folder of images for each class, or "
                "tables, got other files in it",
                f"one is {str(each)!r}",
            )
        images = [path for path in sorted(each.iterdir()) if _counts(path)]
        for image in images:
            if image.is_dir() or image.suffix.lower() not in _suffixes():
                raise DataError(
                    f"the folders of classes in {split!r} must hold images only, got "
                    f"{'a folder' if image.is_dir() else 'another file'} in one",
                    f"it is {str(image)!r}",
                )
        paths += map(str, images)
        classes += [each.name] * len(images)
    names = sorted(set(classes))
    if not names:
        raise DataError(f"the folder {split!r} must hold images, got none")
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[name] for name in classes]
    return Dataset.from_dict({"image": paths, "label": labels}, features)


def image_arrays(file: Path, split: str) -> Dataset:
    """Return images and classes of an npz file: ``x_<split>`` and ``y_<split>``.

    Raises
    ------
    DataError
        If it has no such arrays, or they are not images of uint8 with channels last
        and one class each.
    """
    x_name, y_name = f"x_{split}", f"y_{split}"
    try:
        with np.load(file) as arrays:
            missing = [name for name in (x_name, y_name) if name not in arrays]
            if missing:
                raise DataError(
                    f"data file {file.name!r} must have the arrays {x_name} and "
                    f"{y_name}, got no {' and no '.join(missing)}",
                    f"its arrays are {', '.join(arrays)}",
                )
            x, y = arrays[x_name], arrays[y_name]
    except DataError:
        raise
    except Exception as error:  # of zip files, of zlib, of NumPy's own format
        raise DataError(
            f"data file {file.name!r} must be a whole npz file of plain arrays, got "
            "one that cannot be read",
            str(error),
        ) from None
    if x.dtype != np.uint8 or not _has_channels_last(x.shape):
        raise DataError(
            f"{x_name} of data file {file.name!r} must be uint8 of shape (n, height, "
            "width) or (n, height, width, channels) with 1, 3 or 4 channels, got "
            f"{x.dtype} of shape {x.shape}"
        )
    if y.shape not in ((len(x),), (len(x), 1)):
        raise DataError(
            f"{y_name} of data file {file.name!r} must have one class for each of "
            f"{len(x)} images, got shape {y.shape}"
        )
    gray = x[..., 0] if x.shape[3:] == (1,) else x
    rows = {
        "image": [PIL.Image.fromarray(image) for image in gray],
        "label": y.ravel().tolist(),
    }
    return Dataset.from_dict(rows).cast_column("image", Image())


def stored_images(rows: Dataset, column: str) -> Dataset:
    """Return rows with images that can be opened, not decoded yet.

    Images are stored in the column, or are absolute paths of files.

    Raises
    ------
    DataError
        If one is missing, cannot be opened, or has a mode without a known range.
    """
    feature = rows.features[column]
    if not isinstance(feature, Image) and getattr(feature, "dtype", "") not in (
        *("string", "large_string", "binary", "large_binary"),
    ):
        raise DataError(
            f"image-column must hold images, or paths of files, got {column!r}, which "
            f"holds {getattr(feature, 'dtype', type(feature).__name__)}"
        )
    if getattr(feature, "dtype", "").startswith("large"):
        rows = rows.cast_column(column, Value(feature.dtype.removeprefix("large_")))
    rows = rows.cast_column(column, Image(decode=False))
    for number, row in enumerate(rows.select_columns(column)):
        open_image(row[column], cell(number, "image-column", column))
    return rows


def open_image(stored: Mapping[str, Any] | None, where: str) -> PIL.Image.Image:
    """Open an image without decoding its pixels.

    Parameters
    ----------
    stored : Mapping[str, Any] or None
        Its ``bytes``, or the ``path`` of its file.
    where : str
        Begins an error.

    Raises
    ------
    DataError
        If it cannot be opened, or has a mode without a known range, or many frames.
    """
    path: str = (stored or {}).get("path") or ""
    data: bytes | None = (stored or {}).get("bytes")
    if data is None and not path:
        raise DataError(f"{where} must be an image, got {kind_of(None)}")
    absolute = Path(path).is_absolute()
    if data is None and not (absolute and Path(path).is_file()):
        words = "a path where no file is" if absolute else "other text"
        raise DataError(
            f"{where} must be an image or the absolute path of one, got {words}"
        )
    note = f"the file is {path!r}" if path else ""
    try:
        image = PIL.Image.open(path if data is None else BytesIO(data))
        animated = getattr(image, "is_animated", False)
    except Exception as error:  # of any decoder
        raise DataError(
            f"{where} must be an image, got a file that cannot be opened as one", note
        ) from error
    # The second frame of a phone's photo (MPO) is a preview.
    if animated and image.format != "MPO":
        raise DataError(f"{where} must be one image, got one of many frames", note)
    if image.mode not in (*_EIGHT_BITS, *_SIXTEEN_BITS):
        raise DataError(
            f"{where} must have 8 or 16 bits per channel, got mode {image.mode!r} of "
            "Pillow, whose range is not known: convert it",
            note,
        )
    return image


def pixels_of(
    stored: Mapping[str, Any] | None, channels: int, where: str
) -> NDArray[np.float32]:
    """Return an image as float32 of shape (height, width, channels), in [0, 1].

    Parameters
    ----------
    stored, where :
        As for :func:`open_image`.
    channels : int
        1 for gray, 3 for RGB.

    Raises
    ------
    DataError
        If it is damaged.
    """
    image = open_image(stored, where)
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode in _SIXTEEN_BITS:
            gray = np.asarray(upright).astype(np.float32) / np.float32(65535)
            return np.repeat(gray[..., None], channels, axis=2)
        array = np.asarray(upright.convert(_MODES[channels]))
        scaled = array.astype(np.float32) / np.float32(255)
        return scaled.reshape(*array.shape[:2], channels)
    except Exception as error:  # of any decoder
        path = (stored or {}).get("path")
        raise DataError(
            f"{where} must be a whole image, got a damaged one",
            f"the file is {path!r}" if path else "",
        ) from error


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))


def _counts(path: Path) -> bool:
    """Whether a file or folder is not one of an operating system's own."""
    return not path.name.startswith(".") and path.name not in _SYSTEM_FILES


_SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")


def _suffixes() -> set[str]:
    """Return the suffixes of files that Pillow can open."""
    known = PIL.Image.registered_extensions().items()
    return {suffix for suffix, name in known if name in PIL.Image.OPEN}

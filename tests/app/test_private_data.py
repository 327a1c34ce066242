"""Errors in a device's data hold no value of it: Flower sends them to the server."""

import io
import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from tests.app.files import everything, image_folder, image_task, text_task, write
from tests.app.test_data_runs import simulate
from tests.app.tiny import images, write_jsonl

pytestmark = pytest.mark.usefixtures("cache")

NAME = "Anna Smith, born 1981-03-02"
NUMBER = 19810302
PRIVATE = ("Anna", "Smith", "1981")


def csv(folder, content, encoding="utf-8"):
    (folder / "x.csv").write_bytes(content.encode(encoding))
    return folder / "x.csv"


def jsonl(folder, **row):
    good = {"text": "good", "label": 1}
    return write_jsonl(folder / "x.jsonl", [good, good | row])


def parquet(folder, features=None, **columns):
    columns = {"text": ["good", "bad"], "label": [0, 1]} | columns
    Dataset.from_dict(columns, features).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def shards(folder):
    for number, name in enumerate(("text", NAME)):
        pd.DataFrame({name: ["a"], "label": 1}).to_csv(
            folder / f"x-train-{number}.csv", index=False
        )
    return folder


NAMED = Features(text=Value("string"), label=ClassLabel(names=[NAME, "other"]))

TABLES = {
    "a class": lambda d: csv(d, f'text,label\na,"{NAME}"\n'),
    "a class in JSON": lambda d: jsonl(d, label=NAME),
    "a number": lambda d: jsonl(d, label=NUMBER),
    "a number below 0": lambda d: jsonl(d, label=-NUMBER),
    "a fraction": lambda d: jsonl(d, label=NUMBER + 0.5),
    "a list": lambda d: jsonl(d, label=[NAME]),
    "an object": lambda d: jsonl(d, label={NAME: NUMBER}),
    "no header": lambda d: csv(d, f'"{NAME}",1\nb,0\n'),
    "names of columns": lambda d: csv(d, f'"{NAME}","{NAME}"\na,0\n'),
    "a wide row": lambda d: csv(d, f"text,label\n{NAME},0\n"),
    "a wide header": lambda d: csv(d, f"text,label,{NAME}\na,0\n"),
    "quotes": lambda d: csv(d, f'text,label\n"{NAME},0\n'),
    "quotes inside": lambda d: csv(d, f'text,label\n"{NAME}" {NAME},0\n'),
    "another encoding": lambda d: csv(d, f"text,label\n{NAME} é,0\n", "latin-1"),
    "broken JSON": lambda d: csv(d, f'{{"text": "{NAME}" "{NAME}"}}').rename(
        d / "x.jsonl"
    ),
    "not an object": lambda d: csv(d, json.dumps([NAME])).rename(d / "x.json"),
    "half a character": lambda d: jsonl(d, text=NAME + "\ud800"),
    "text in a list": lambda d: parquet(d, text=[[NAME], [NAME]]),
    "text in an object": lambda d: parquet(d, text=[{NAME: NAME}] * 2),
    "names of classes": lambda d: parquet(d, NAMED),
    "files of other columns": shards,
    "a damaged file": lambda d: csv(d, NAME).rename(d / "x.parquet"),
}


def check_private(task, path):
    with pytest.raises(ValueError) as raised:
        everything(task.data.local_examples(str(path)))
    for secret in PRIVATE:
        assert secret not in str(raised.value)
    # Flower's text of an exception has its class, too.
    assert raised.type.__name__ == "DataError"


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("classes", [{"classes": 2}, {"class_names": "a,b"}])
def test_row_10_an_error_in_a_devices_table_holds_no_value(
    tmp_path, bert, case, classes
):
    if case == "names of classes" and "class_names" in classes:
        classes = {"class_names": "c,d"}
    task = text_task(bert, "/not/read", **classes)
    check_private(task, TABLES[case](tmp_path))


def folder_of(folder, *names):
    return image_folder(folder, "train", names)


def damaged(folder, content):
    path = folder_of(folder, "ant", "bee") / "train" / "ant" / f"{NAME}.png"
    path.write_bytes(content)
    return folder


def arrays(folder, **changes):
    x, y = images(8)
    np.savez(folder / "x.npz", **({"x_train": x, "y_train": y} | changes))
    return folder / "x.npz"


def arrays_named(folder, name):
    np.savez(folder / "x.npz", **{name: [1]})
    return folder / "x.npz"


def half_of_an_image():
    file = io.BytesIO()
    PIL.Image.fromarray(images(1)[0][0]).save(file, "PNG")
    return file.getvalue()[:400]


IMAGES = {
    "names of classes": lambda d: folder_of(d, NAME, "bee"),
    "a folder deeper": lambda d: folder_of(d, f"{NAME}/{NAME}"),
    "a file": lambda d: damaged(d, NAME.encode()),
    "a file whose pixels end": lambda d: damaged(d, half_of_an_image()),
    "a path": lambda d: jsonl(d, image=f"/nowhere/{NAME}.png"),
    "text": lambda d: jsonl(d, image=NAME),
    "names of arrays": lambda d: arrays_named(d, NAME),
    "a label": lambda d: arrays(d, y_train=[NAME] * 8),
}


@pytest.mark.parametrize("case", IMAGES)
def test_row_10_an_error_in_a_devices_images_holds_no_value(tmp_path, vit, case):
    names = {"class_names": "ant,bee"}
    check_private(image_task(vit, "/not/read", **names), IMAGES[case](tmp_path))


def test_row_10_what_a_library_raises_stays_on_the_device(tmp_path, bert, monkeypatch):
    task = text_task(bert, "/not/read", classes=2)

    def fail(*args, **settings):
        raise KeyError(NAME)

    monkeypatch.setattr("datasets.Dataset.map", fail)
    path = write(tmp_path, "csv", author=NAME)
    with pytest.raises(
        ValueError, match="(?s)cannot be used: KeyError.*Anna"
    ) as raised:
        task.data.local_examples(str(path))
    assert "Anna" not in str(raised.value)


def test_row_10_no_value_is_in_the_history_of_a_run(tmp_path, bert, caplog):
    write(tmp_path, "parquet", 30)
    write(tmp_path, "parquet", 8, "test")
    devices = []
    for number, case in enumerate(("a class", "no header", "a wide row")):
        (folder := tmp_path / f"device-{number}").mkdir()
        devices.append({"data-path": str(TABLES[case](folder))})
    result = simulate(
        tmp_path,
        nodes=4,
        task="text-classification",
        model=str(bert),
        dataset=str(tmp_path),
        node_configs=[*devices, {}],
        partitioner="iid",
    )
    assert len(result.history[-1]["failures"]) == 3
    kept = [
        path.read_text()
        for path in result.folder.iterdir()
        if path.suffix in (".json", ".jsonl", ".toml")
    ]
    for secret in PRIVATE:
        assert not any(secret in text for text in kept)

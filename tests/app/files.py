"""Files of data in each format, and tasks on them."""

import pandas as pd
import torch
from PIL import Image

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks.labels import class_count, number_labels
from flasc_flwr.app.tasks.tables import Preparation, Tables
from tests.app.tiny import images, task_of, texts

GOOD = "text,label\ngood,1\nbad,0\n"
WRONG = "text,label\nwrong,1\nwrong,0\n"
RIGHT = [("good", 1), ("bad", 0)]


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


def image_task(model, dataset, **settings):
    settings = {"task": "image-classification", "partitioner": "iid"} | settings
    return task_of(model=str(model), dataset=str(dataset), **settings)


def everything(examples):
    return examples.batch(torch.arange(len(examples)))


def image_folder(folder, part, classes, count=4):
    pixels, _ = images(count * len(classes))
    for number, array in enumerate(pixels):
        path = folder / part / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return folder


def write_text(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def tables_of(dataset="", **settings):
    """Return a run's tables with numbered labels; no model is built."""
    settings = {"label-column": "label", "validation-fraction": 0.0} | settings
    config = RunConfig.parse(
        {"task": "text-classification", "dataset": str(dataset), "partitioner": "iid"}
        | {key.replace("_", "-"): value for key, value in settings.items()}
    )
    count = class_count(config)

    def prepare(rows):
        return number_labels(rows, config, count, several=config.multi_label)

    columns = {"text-column": "text", "label-column": "label"}
    how = Preparation(
        columns=columns, prepare=prepare, collate=lambda rows, training: dict(rows)
    )
    return Tables(config, how)


def pairs(examples):
    """Return the text and the label of each example."""
    rows = examples.table[examples.rows.tolist()]
    texts = [text or "" for text in rows["text"]]
    return list(zip(texts, rows["label"], strict=True))


def own_pairs(path, dataset="", **settings):
    """Return what a device with its own data trains on."""
    return pairs(tables_of(dataset, **settings).local_examples(str(path)))

"""Files of data in each format, and tasks on them."""

import pandas as pd
import torch
from PIL import Image

from tests.app.tiny import images, task_of, texts


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

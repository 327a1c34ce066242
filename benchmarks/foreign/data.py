"""Local data in place of what apps download: same columns, kinds and splits."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

WORDS = [f"word{number}" for number in range(100, 220)]


def load_dataset(path: str, name: str | None = None, **given: Any) -> Any:
    """Stand in for ``datasets.load_dataset``: the local data for a name on the hub.

    Raises
    ------
    KeyError
        If there is none for this name.
    """
    if path not in LOCAL:
        raise KeyError(f"no local data in place of {path!r}; known: {sorted(LOCAL)}")
    splits = DatasetDict(LOCAL[path]())
    return splits[given["split"]] if given.get("split") else splits


def pictures(column: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Any:
    from PIL import Image as Picture

    features = Features({column: Image(), "label": ClassLabel(10)})
    splits = {}
    for split, (values, labels) in {"train": train, "test": test}.items():
        rows = {
            column: [Picture.fromarray(value) for value in values],
            "label": [int(label) for label in labels],
        }
        splits[split] = Dataset.from_dict(rows, features=features)
    return splits


def cifar() -> Any:
    """CIFAR-10, 4,000 and 1,000 images."""
    file = np.load(Path(os.environ["FLASC_DATA"]) / "cifar10-5k.npz")
    train, test = ((file[f"x_{s}"], file[f"y_{s}"]) for s in ("train", "test"))
    return pictures("img", train, test)


def digits() -> Any:
    """Scikit-learn's digits, at MNIST's size: 1,437 and 360 images."""
    from PIL import Image as Picture
    from sklearn.datasets import load_digits

    small = load_digits()
    values = [
        np.asarray(Picture.fromarray((value * 15.9).astype(np.uint8)).resize((28, 28)))
        for value in small.images
    ]
    order = np.random.default_rng(0).permutation(len(values))
    train, test = (
        ([values[i] for i in part], small.target[part])
        for part in (order[:1437], order[1437:])
    )
    return pictures("image", train, test)


def iris() -> Any:
    from sklearn.datasets import load_iris

    flowers = load_iris()
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    columns = dict(zip(names, flowers.data.T.tolist(), strict=True))
    return {"train": Dataset.from_dict(columns | {"species": flowers.target.tolist()})}


def census() -> Any:
    """Made up: fourteen columns of people, of which some decide the income."""
    draw = np.random.default_rng(0)
    rows = 4000
    numbers = ("age", "fnlwgt", "education.num", "capital.gain", "capital.loss")
    words = ("workclass", "education", "marital.status", "occupation")
    more = ("relationship", "race", "sex", "native.country")
    columns = {name: draw.normal(size=rows) for name in (*numbers, "hours.per.week")}
    codes = {name: draw.integers(0, 6, rows) for name in (*words, *more)}
    score = sum(draw.normal() * v for v in columns.values())
    score = score + sum(draw.normal(size=6)[v] for v in codes.values())
    score = score + columns["age"] * columns["education.num"]
    rich = score + draw.normal(size=rows) > np.quantile(score, 0.75)
    table = {name: values.tolist() for name, values in columns.items()}
    table |= {name: [f"{name} {v}" for v in values] for name, values in codes.items()}
    table["income"] = np.where(rich, ">50K", "<=50K").tolist()
    return {"train": Dataset.from_dict(table)}


def collisions() -> Any:
    """Made up: twenty-eight measurements and two classes, as in HIGGS."""
    from sklearn.datasets import make_classification

    values, labels = make_classification(4000, 28, n_informative=10, random_state=0)
    return {"train": Dataset.from_dict({"inputs": values.tolist(), "label": labels})}


def reviews() -> Any:
    """Made up: texts of twelve words, half of which are of the class."""
    draw = np.random.default_rng(0)
    texts, labels = [], []
    for label in draw.integers(0, 2, 3200):
        words = draw.choice(WORDS[:100], 12)
        # The two last tens of words belong to one class each.
        own = WORDS[100 + 10 * label : 110 + 10 * label]
        words[draw.choice(12, 6, replace=False)] = draw.choice(own, 6)
        texts.append(" ".join(words))
        labels.append(int(label))
    return {"train": Dataset.from_dict({"text": texts, "label": labels})}


def instructions(split: str = "train") -> Any:
    """Instructions and answers in the columns of Alpaca."""
    import pandas

    file = Path(os.environ["FLASC_DATA"]) / f"instruct-{split}.parquet"
    table = pandas.read_parquet(file).query("domain == 'math'")
    # Sequences are short here: most of one must be left for the answer.
    table = table[table["prompt"].str.len() < 160].iloc[:1000]
    prompts, answers = table["prompt"].tolist(), table["response"].tolist()
    rows = {"instruction": prompts, "input": prompts, "output": answers}
    return {"train": Dataset.from_dict(rows)}


LOCAL: dict[str, Callable[[], Any]] = {
    "uoft-cs/cifar10": cifar,
    "zalando-datasets/fashion_mnist": digits,
    "ylecun/mnist": digits,
    "hitorilabs/iris": iris,
    "scikit-learn/adult-census-income": census,
    "jxie/higgs": collisions,
    "stanfordnlp/imdb": reviews,
    "vicgalle/alpaca-gpt4": instructions,
    "flwrlabs/medical-meadow-medical-flashcards": instructions,
}

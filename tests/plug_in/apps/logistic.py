"""A typical Flower app: scikit-learn's logistic regression."""

import warnings
from functools import cache

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss


@cache
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order] / 16, labels[order]


def partition(context):
    images, labels = digits()
    settings = context.node_config
    own = slice(400 + settings["partition-id"], 800, settings["num-partitions"])
    return images[own], labels[own]


def model_with(arrays: ArrayRecord) -> LogisticRegression:
    model = LogisticRegression(max_iter=5, warm_start=True)
    model.classes_ = np.arange(10)
    model.coef_, model.intercept_ = arrays.to_numpy_ndarrays()
    return model


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    model = model_with(message.content["arrays"])
    images, labels = partition(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(images, labels)
    loss = log_loss(labels, model.predict_proba(images), labels=model.classes_)
    content = {
        "arrays": ArrayRecord([model.coef_, model.intercept_]),
        "metrics": MetricRecord({"train_loss": loss, "num-examples": len(images)}),
    }
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    score = model_with(message.content["arrays"]).score(*partition(context))
    metrics = MetricRecord({"accuracy": float(score), "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def initial_arrays() -> ArrayRecord:
    return ArrayRecord([np.zeros((10, 64)), np.zeros(10)])


def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    images, labels = digits()
    score = model_with(arrays).score(images[:400], labels[:400])
    return MetricRecord({"accuracy": float(score)})

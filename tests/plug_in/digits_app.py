"""A numpy app that learns: a network with one hidden layer on scikit-learn's digits."""

import random
from functools import cache

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits

from flasc_flwr import SparseTransport, flasc_mod
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.wire import array_record, arrays_of

NODES = 5
TEST = 600


@cache
def digits():
    """Return images, shape (1797, 64), and labels, shuffled."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32), labels[order]


def partition(client, nodes=NODES):
    """Return a client's images and labels."""
    images, labels = digits()
    own = slice(TEST + client, None, nodes)
    return images[own], labels[own]


def few_labels(client, nodes=NODES):
    """Return a client's images and labels, of few of the ten labels."""
    images, labels = (rows[TEST:] for rows in digits())
    by_label = np.argsort(labels, kind="stable")
    own = np.concatenate(np.array_split(by_label, 4 * nodes)[client::nodes])
    return images[own], labels[own]


def network(hidden=32):
    """Return the arrays of a new network."""
    rng = np.random.default_rng(0)
    return {
        "first": (rng.standard_normal((64, hidden)) / 8).astype(np.float32),
        "first_bias": np.zeros(hidden, np.float32),
        "last": (rng.standard_normal((hidden, 10)) / 6).astype(np.float32),
        "last_bias": np.zeros(10, np.float32),
    }


def gradient(arrays, images, labels):
    """Return the gradient of the cross-entropy, one array for each of the network."""
    active = np.maximum(images @ arrays["first"] + arrays["first_bias"], 0)
    logits = active @ arrays["last"] + arrays["last_bias"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    error = (shares - np.eye(10, dtype=np.float32)[labels]) / len(labels)
    back = (error @ arrays["last"].T) * (active > 0)
    return {
        "first": images.T @ back,
        "first_bias": back.sum(0),
        "last": active.T @ error,
        "last_bias": error.sum(0),
    }


def sgd(arrays, client, current, *, lr=0.3, correction=None, examples=partition):
    """Return the arrays after one epoch on a client's examples."""
    images, labels = examples(client)
    order = np.random.default_rng([client, current]).permutation(len(labels))
    trained = {name: array.astype(np.float32) for name, array in arrays.items()}
    for batch in np.array_split(order, len(order) // 16):
        gradients = gradient(trained, images[batch], labels[batch])
        for name, step in gradients.items():
            if correction:
                step = step + correction[name]
            trained[name] = (trained[name] - lr * step).astype(np.float32)
    return trained


def accuracy(arrays):
    """Return the fraction of the test images that are classified correctly."""
    images, labels = digits()
    arrays = arrays_of(arrays) if not isinstance(arrays, dict) else arrays
    active = np.maximum(images[:TEST] @ arrays["first"] + arrays["first_bias"], 0)
    logits = active @ arrays["last"] + arrays["last_bias"]
    return float((logits.argmax(1) == labels[:TEST]).mean())


def digits_client(train=sgd, mods=()):
    """Return an app that trains with a function of arrays, client and round."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train_fn(message, context):
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        content = train(arrays_of(message.content["arrays"]), client, current)
        if not isinstance(content, RecordDict):
            metrics = MetricRecord({"num-examples": len(partition(client)[1])})
            content = RecordDict({"arrays": array_record(content), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def learn(strategy, app=digits_client, *, rounds=10, transport=None, arrays=None):
    """Run the app; return its accuracy, its strategy and its result.

    `app` is called with the list of mods. With `transport` the strategy is wrapped in a
    SparseTransport of these settings.
    """
    random.seed(0)
    mods = []
    if transport is not None:
        strategy, mods = SparseTransport(strategy, **transport), [flasc_mod]
    initial = array_record(network() if arrays is None else arrays)
    result = strategy.start(LocalGrid(app(mods=mods), NODES), initial, rounds)
    return accuracy(result.arrays), strategy, result

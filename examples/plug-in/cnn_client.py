"""A typical Flower ClientApp: a CNN with BatchNorm on scikit-learn's digits.

Only two lines refer to this project: the import of flasc_mod and the list of mods.
"""

from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from torch import nn

from flasc_flwr import flasc_mod


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, images):
        return self.classifier(self.features(images))


@cache
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor(images[order] / 16, dtype=torch.float32)
    return images.reshape(-1, 1, 8, 8), torch.tensor(labels[order])


def partition(context):
    images, labels = digits()
    settings = context.node_config
    own = slice(400 + settings["partition-id"], 800, settings["num-partitions"])
    return images[own], labels[own]


app = ClientApp(mods=[flasc_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    current = message.content["config"]["server-round"]
    torch.manual_seed(1000 * current + context.node_config["partition-id"])
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = partition(context)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for batch in torch.randperm(len(images)).split(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord(
            {"train_loss": float(np.mean(losses)), "num-examples": len(images)}
        ),
    }
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    correct = accuracy(message.content["arrays"], *partition(context))
    metrics = MetricRecord({"accuracy": correct, "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def accuracy(arrays: ArrayRecord, images, labels) -> float:
    model = Net().eval()
    model.load_state_dict(arrays.to_torch_state_dict())
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def initial_arrays() -> ArrayRecord:
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    images, labels = digits()
    return MetricRecord({"accuracy": accuracy(arrays, images[:400], labels[:400])})

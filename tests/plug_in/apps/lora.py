"""A typical Flower app: PEFT's LoRA on a small backbone."""

from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


@cache
def model():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    lora = LoraConfig(r=8, target_modules=["1", "3"], modules_to_save=["5"])
    return get_peft_model(backbone, lora)


def model_with(arrays: ArrayRecord):
    set_peft_model_state_dict(model(), arrays.to_torch_state_dict())
    return model()


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


app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    current = message.content["config"]["server-round"]
    torch.manual_seed(1000 * current + context.node_config["partition-id"])
    net = model_with(message.content["arrays"]).train()
    images, labels = partition(context)
    trainable = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    losses = []
    for batch in torch.randperm(len(images)).split(25):
        optimizer.zero_grad()
        loss = cross_entropy(net(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays = get_peft_model_state_dict(net, save_embedding_layers=False)
    content = {
        "arrays": ArrayRecord(dict(arrays)),
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
    net = model_with(arrays).eval()
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def initial_arrays() -> ArrayRecord:
    model.cache_clear()
    arrays = get_peft_model_state_dict(model(), save_embedding_layers=False)
    return ArrayRecord(dict(arrays))


def central_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    images, labels = digits()
    return MetricRecord({"accuracy": accuracy(arrays, images[:400], labels[:400])})

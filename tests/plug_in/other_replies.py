"""Apps on the digits whose replies are not trained weights, or not all of them."""

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flasc_flwr.flower.wire import array_record, arrays_of
from tests.plug_in.digits_app import digits_client, few_labels, gradient, sgd

LR = 0.1


def mean(records):
    """Return the mean of some records of arrays, each of which counts the same."""
    dicts = [arrays_of(record) for record in records]
    return {name: np.mean([d[name] for d in dicts], axis=0) for name in dicts[0]}


def metrics(client):
    return MetricRecord({"num-examples": len(few_labels(client)[1])})


def gradient_app(mods=()):
    """FedSGD: the reply has the names of the weights, and holds a gradient."""
    return digits_client(
        lambda arrays, client, current: gradient(arrays, *few_labels(client)), mods
    )


class FedSGD(FedAvg):
    """Steps along the mean gradient."""

    def configure_train(self, server_round, arrays, config, grid):
        self.current = arrays_of(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, averaged = super().aggregate_train(server_round, replies)
        for name, step in arrays_of(arrays).items():
            self.current[name] = np.float32(self.current[name] - 0.5 * step)
        return array_record(self.current), averaged


def scaffold_app(mods=()):
    """SCAFFOLD: a second record each way; each client keeps its own control variate."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        start = arrays_of(message.content["arrays"])
        common = arrays_of(message.content["control"])
        kept = context.state.array_records.get("control")
        own = arrays_of(kept) if kept else {n: 0 * a for n, a in common.items()}
        correction = {name: common[name] - own[name] for name in common}
        trained = sgd(
            start, client, current, lr=LR, correction=correction, examples=few_labels
        )
        steps = len(few_labels(client)[1]) // 16
        new = {
            name: np.float32(
                (start[name] - trained[name]) / (steps * LR) - correction[name]
            )
            for name in common
        }
        context.state["control"] = array_record(new)
        change = {name: new[name] - own[name] for name in new}
        content = RecordDict(
            {
                "arrays": array_record(trained),
                "control": array_record(change),
                "metrics": metrics(client),
            }
        )
        return Message(content, reply_to=message)

    return app


class Scaffold(FedAvg):
    """Averages weights, and adds the mean change to the control variate."""

    control = None

    def configure_train(self, server_round, arrays, config, grid):
        if self.control is None:
            self.control = {n: 0 * a for n, a in arrays_of(arrays).items()}
        content = RecordDict(
            {
                "arrays": arrays,
                "control": array_record(self.control),
                "config": ConfigRecord({"server-round": server_round}),
            }
        )
        nodes = sorted(grid.get_node_ids())
        return self._construct_messages(content, nodes, MessageType.TRAIN)

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies]
        change = mean([content["control"] for content in contents])
        for name in change:
            self.control[name] = np.float32(self.control[name] + change[name])
        trained = mean([content["arrays"] for content in contents])
        return array_record(trained), MetricRecord()


PERSONAL = ("last", "last_bias")


def personal_app(mods=()):
    """Personal layers: the head stays on the device, the rest is sent back."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        current = message.content["config"]["server-round"]
        arrays = arrays_of(message.content["arrays"])
        if head := context.state.array_records.get("head"):
            arrays |= arrays_of(head)
        trained = sgd(arrays, client, current, lr=LR, examples=few_labels)
        head = {name: trained.pop(name) for name in PERSONAL}
        context.state["head"] = array_record(head)
        model = trained | head
        own = metrics(client)
        own["accuracy"] = local_accuracy(model, client)
        content = {"arrays": array_record(trained), "metrics": own}
        return Message(RecordDict(content), reply_to=message)

    return app


def local_accuracy(arrays, client):
    images, labels = few_labels(client)
    active = np.maximum(images @ arrays["first"] + arrays["first_bias"], 0)
    logits = active @ arrays["last"] + arrays["last_bias"]
    return float((logits.argmax(1) == labels).mean())


class Personal(FedAvg):
    """Puts the mean of what is shared beside the other arrays."""

    def configure_train(self, server_round, arrays, config, grid):
        self.current = arrays_of(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, averaged = super().aggregate_train(server_round, replies)
        assert isinstance(arrays, ArrayRecord) and set(arrays).isdisjoint(PERSONAL)
        return array_record(self.current | arrays_of(arrays)), averaged

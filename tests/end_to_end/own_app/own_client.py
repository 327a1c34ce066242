"""A ClientApp that adds 1 to what it receives."""

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flasc_flwr import flasc_mod

app = ClientApp(mods=[flasc_mod])


@app.train()
def train(message, context):
    arrays = message.content["arrays"].to_numpy_ndarrays()
    content = {
        "arrays": ArrayRecord([array + 1 for array in arrays]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(RecordDict(content), reply_to=message)

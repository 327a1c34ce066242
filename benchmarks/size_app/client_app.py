"""The client of both patterns: a model that its process keeps, and no training."""

import argparse
from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from size_client import Client

from flasc_flwr import flasc_mod

app = ClientApp(mods=[flasc_mod])  # other messages than ours pass it unchanged


@app.train()
def train(message: Message, context: Context) -> Message:
    """Load, "train" and read the adapter."""
    config = context.run_config
    client = client_of(config["parameters"], config["device"])
    own = config["pattern"] == "flasc"
    return (client.sparse_round if own else client.plain_round)(message, context)


@lru_cache(maxsize=1)
def client_of(parameters: int, device: str) -> Client:
    """Return this process's client."""
    return Client(argparse.Namespace(parameters=parameters, device=device, clock="cpu"))

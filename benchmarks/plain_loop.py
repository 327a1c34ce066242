"""The lower bound: the same trainings in one process, without Flower or messages.

Run by benchmarks/simulation.py with a run config, the number of clients and how many
train in a round; prints the seconds of each round but the first.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.layout import Layout


def main() -> None:
    settings, clients, cohort = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = RunConfig.parse(json.loads(Path(settings).read_text()))
    task = load_task(config)
    arrays = read_adapter(task.model)
    layout = Layout.of(arrays)
    draw = np.random.default_rng(config.seed)
    seconds = []
    for _ in range(config.num_server_rounds):
        began = time.perf_counter()
        mean = np.zeros(layout.size, np.float32)
        for client in draw.permutation(clients)[:cohort].tolist():
            task.load_adapter(arrays)
            task.train(task.data.partition(client, clients), seed=client)
            mean += layout.flatten(read_adapter(task.model)) / cohort
        arrays = layout.unflatten(mean)
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main()

"""Its ServerApp: FedAvg in a SparseTransport."""

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

import flasc_flwr
from flasc_flwr import SparseTransport

app = ServerApp()


@app.main()
def main(grid, context):
    print("flasc_flwr is", flasc_flwr.__file__)
    arrays = ArrayRecord([np.ones((100, 100), np.float32)])
    strategy = SparseTransport(FedAvg(fraction_evaluate=0.0))
    rounds = int(context.run_config["num-server-rounds"])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)

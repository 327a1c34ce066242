"""Its ServerApp: FedAdam with and without SparseTransport."""

from pathlib import Path

from cnn_client import central_evaluate, initial_arrays
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam

from flasc_flwr import SparseTransport

app = ServerApp()

TRANSPORTS = {
    "none": lambda inner: inner,
    "exact": lambda inner: SparseTransport(
        inner, download_density=1, upload_density=1, values="float32"
    ),
    "sparse": SparseTransport,
}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train; write the final arrays to the file ``save-to``, if it is set."""
    strategy = FedAdam(fraction_evaluate=0.0, eta=0.02)
    strategy = TRANSPORTS[str(context.run_config["transport"])](strategy)
    result = strategy.start(
        grid=grid,
        initial_arrays=initial_arrays(),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=central_evaluate,
    )
    if path := context.run_config["save-to"]:
        arrays = [array.data for array in result.arrays.values()]
        Path(str(path)).write_bytes(b"".join(arrays))

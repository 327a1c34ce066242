"""Every strategy of Flower's, with settings that let the apps learn."""

from functools import partial

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flower


class Cautious(flower.FedAvg):
    """A user's strategy: takes three quarters of FedAvg's step."""

    def configure_train(self, server_round, arrays, config, grid):
        self.before = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        moved = {}
        for name, before in self.before.items():
            old, new = before.numpy(), arrays[name].numpy()
            moved[name] = Array(np.asarray(old + 0.75 * (new - old)))
        return ArrayRecord(moved), metrics


def private(wrapper, **settings):
    def make(**common):
        inner = flower.FedAvg(**common)
        return wrapper(inner, num_sampled_clients=4, **settings)

    return make


FIXED = {"noise_multiplier": 1e-3, "clipping_norm": 20.0}
ADAPTIVE = {"noise_multiplier": 1e-3, "initial_clipping_norm": 20.0}

STRATEGIES = {
    "FedAvg": flower.FedAvg,
    "FedProx": partial(flower.FedProx, proximal_mu=0.1),
    "FedAvgM": partial(flower.FedAvgM, server_momentum=0.1),
    "FedAdam": partial(flower.FedAdam, eta=0.02),
    "FedYogi": partial(flower.FedYogi, eta=0.02),
    "FedAdagrad": partial(flower.FedAdagrad, eta=0.03),
    "FedMedian": flower.FedMedian,
    "FedTrimmedAvg": flower.FedTrimmedAvg,
    "Krum": flower.Krum,
    "MultiKrum": partial(flower.MultiKrum, num_nodes_to_select=3),
    "Bulyan": flower.Bulyan,
    "QFedAvg": partial(flower.QFedAvg, client_learning_rate=0.1, q=0.0),
    "user-defined": Cautious,
    "server-side fixed clipping": private(
        flower.DifferentialPrivacyServerSideFixedClipping, **FIXED
    ),
    "client-side fixed clipping": private(
        flower.DifferentialPrivacyClientSideFixedClipping, **FIXED
    ),
    "server-side adaptive clipping": private(
        flower.DifferentialPrivacyServerSideAdaptiveClipping, **ADAPTIVE
    ),
    "client-side adaptive clipping": private(
        flower.DifferentialPrivacyClientSideAdaptiveClipping, **ADAPTIVE
    ),
}
"""Functions that make a strategy from the arguments that all share, by name."""

CLIENT_MODS = {
    "client-side fixed clipping": [fixedclipping_mod],
    "client-side adaptive clipping": [adaptiveclipping_mod],
}

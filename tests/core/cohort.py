"""A small cohort of unequal ranks, as plain dictionaries of A (r, in) and B (out, r).

in and out differ, so that a transposition shows.
"""

import numpy as np

from flasc_flwr.core.aggregation import (
    AGGREGATIONS,
    Contribution,
    aggregator,
)
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.merged import merge
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.sparsity import top_k

RANK, SIZES = 6, {"one": (5, 9), "two": (8, 4)}
AVERAGES = [name for name, rule in AGGREGATIONS.items() if rule.averages]


def random_adapter(seed, rank=RANK):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (n_out, n_in) in SIZES.items():
        arrays[f"{name}.lora_A.weight"] = rng.standard_normal((rank, n_in))
        arrays[f"{name}.lora_B.weight"] = rng.standard_normal((n_out, rank))
    arrays["classifier.weight"] = rng.standard_normal((3, 5))
    return {name: value.astype(np.float32) for name, value in arrays.items()}


START = random_adapter(0)
LAYOUT = Layout.of(START)


def client(seed, rank):
    """Return what a client of a rank has trained: all of its adapter is new."""
    return random_adapter(seed, rank)


def aggregate(name, clients, weights=None, exact=False, ratio=0.0, **more):
    """Return the new adapter, as arrays, and what is merged, as arrays."""
    start = LAYOUT.flatten(START)
    make = aggregator(name, exact_residual=exact, weight_ratio=ratio, **more)
    rule = make(LAYOUT, start)
    for trained, weight in zip(clients, weights or [1.0] * len(clients), strict=True):
        rank = trained["one.lora_A.weight"].shape[0]
        cut = truncation(LAYOUT, rank)
        update = cut.layout.flatten(trained) - cut.truncate(start)
        rule.add(Contribution(cut.pad_sparse(top_k(update, 1.0)), rank, weight))
    result = rule.result()
    return LAYOUT.unflatten(start + result.update), merge({}, result.terms)


def pad(trained, fill=0.0):
    """Fill up a smaller adapter's missing components."""
    padded = {}
    for name, value in trained.items():
        missing = RANK - trained["one.lora_A.weight"].shape[0]
        widths = {"A": ((0, missing), (0, 0)), "B": ((0, 0), (0, missing))}
        kind = name.split("lora_")[1][0] if "lora_" in name else None
        padded[name] = (
            np.pad(value, widths[kind], constant_values=fill) if kind else value
        )
    return padded


def average(adapters, weights):
    p = np.asarray(weights, float) / np.sum(weights)
    return {k: sum(w * a[k] for w, a in zip(p, adapters, strict=True)) for k in START}


def product(adapter, module):
    return adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]


def assert_close(ours, expected, tolerance=1e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(
            ours[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


CLIENTS = [client(1, 2), client(2, 6), client(3, 4), client(4, 2)]
WEIGHTS = [1.0, 2.0, 0.5, 3.0]

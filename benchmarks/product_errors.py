"""How far B A is from the exact mean product, after one aggregation by each rule.

Over random cohorts, and over cohorts recorded on the digits task: ten clients train
from the same adapter, at rank 16 all or at ranks 1, 4 and 16 in turn, and the server
goes on by `replication`. The error is ``||B A - T||_F / ||T||_F`` over all modules, for
``T = sum_k p_k B_k A_k``. Writes benchmarks/results/product-errors.csv.
Run: OMP_NUM_THREADS=1 python benchmarks/product_errors.py [--rounds 5] [--seeds 3]
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rank_aggregation import shares

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.aggregation import Contribution, aggregator
from flasc_flwr.core.factors import lora_modules
from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout, Vector
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.sparsity import top_k

CLIENTS = 10
RANKS = {"rank 16": [16], "ranks 1, 4, 16": [1, 4, 16]}
RULES = {
    "zero-padding": {},
    "zero-padded-updates": {},
    "replication": {},
    "svd": {},
    "florist": {},
    "rank-partitioned": {},
    "fair": {},
    "alternating, B": {"turn": 1},
    "alternating, A": {"turn": 2},
}
Cohort = tuple[Layout, Vector, list[Contribution]]


def contribution(layout: Layout, start: Vector, trained: Vector, rank: int):
    """Return what a client of a rank adds, from its trained smaller adapter."""
    cut = truncation(layout, rank)
    update = top_k(trained - cut.truncate(start), 1.0)
    return Contribution(cut.pad_sparse(update), rank)


def random(seed: int, ranks: list[int], side: int = 64) -> Cohort:
    """Draw a cohort: a trained adapter, and updates as large as a half of it."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (side, 2 * side), "b": (2 * side, side)}
    arrays = {}
    for name, (n_out, n_in) in shapes.items():
        arrays[f"{name}.lora_A.weight"] = np.zeros((16, n_in), np.float32)
        b = 0.1 * rng.standard_normal((n_out, 16))
        arrays[f"{name}.lora_B.weight"] = b.astype(np.float32)
    layout = Layout.of(arrays)
    start = layout.flatten(arrays) + seeded_factors(layout, seed)
    cohort = []
    for client in range(CLIENTS):
        rank = ranks[client % len(ranks)]
        begin = truncation(layout, rank).truncate(start)
        noise = rng.standard_normal(len(begin)).astype(np.float32)
        size = np.float32(np.abs(begin).mean() / 2)
        cohort.append(contribution(layout, start, begin + size * noise, rank))
    return layout, start, cohort


def recorded(seed: int, ranks: list[int], rounds: int) -> Iterator[Cohort]:
    """Train cohorts on the digits task, round after round."""
    task = load_task(RunConfig(seed=seed))
    arrays = read_adapter(task.model)
    layout = Layout.of(arrays)
    vector = layout.flatten(arrays)
    parts = shares(seed)
    for current in range(rounds):
        cohort = []
        for client, examples in enumerate(parts):
            cut = truncation(layout, ranks[client % len(ranks)])
            task.load_adapter(cut.layout.unflatten(cut.truncate(vector)))
            task.train(examples, seed=seed + current)
            trained = cut.layout.flatten(read_adapter(task.model))
            cohort.append(contribution(layout, vector, trained, cut.rank))
        yield layout, vector, cohort
        vector = vector + aggregated("replication", layout, vector, cohort)


def aggregated(name: str, layout: Layout, vector: Vector, cohort, **more) -> Vector:
    """Return a rule's update."""
    rule = aggregator(name, **more)(layout, vector)
    for each in cohort:
        rule.add(each)
    return rule.result().update


def errors(layout: Layout, vector: Vector, cohort) -> dict[str, float]:
    """Return each rule's error against the mean product."""
    trained = [each.trained(layout, vector) for each in cohort]
    made = {
        rule: vector
        + aggregated(rule.partition(",")[0], layout, vector, cohort, **more)
        for rule, more in RULES.items()
    }
    missed, whole = dict.fromkeys(RULES, 0.0), 0.0
    for module in lora_modules(layout):
        products = [b @ a for b, a in map(module.factors, trained)]
        exact = np.mean(products, axis=0)
        whole += np.sum(exact**2)
        for rule, new in made.items():
            b, a = module.factors(new)
            missed[rule] += np.sum((b @ a - exact) ** 2)
    return {rule: float(np.sqrt(each / whole)) for rule, each in missed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for name, ranks in RANKS.items():
        for seed in range(10 * given.seeds):
            rows.append(("random", name, "", seed, errors(*random(seed, ranks))))
        for seed in range(given.seeds):
            for at, cohort in enumerate(recorded(seed, ranks, given.rounds), 1):
                if at in (1, given.rounds):
                    rows.append(("digits", name, at, seed, errors(*cohort)))
                    print(*rows[-1][:4], flush=True)
    file = Path(__file__).parent / "results" / "product-errors.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["cohort", "ranks", "round", "seed", *RULES])
        for *key, found in rows:
            writer.writerow([*key, *(f"{error:.6f}" for error in found.values())])
    kinds = list(dict.fromkeys(row[:3] for row in rows))
    print("| rule | " + " | ".join(" ".join(map(str, k)) for k in kinds) + " |")
    print("|---" * (1 + len(kinds)) + "|")
    for rule in RULES:
        means = [np.mean([r[4][rule] for r in rows if r[:3] == k]) for k in kinds]
        print(f"| `{rule}` | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


if __name__ == "__main__":
    main()

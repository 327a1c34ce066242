"""One aggregation with one high-rank client among ten: what is left of its accuracy.

Byun & Lee's diagnostic (arXiv 2406.17477) on the digits task. One client has rank 16
and a balanced share of the data; nine have rank 4 and shares skewed by a Dirichlet of
0.3. All train from the same start; each rule aggregates the same ten adapters once,
uniformly; what comes out is tested at rank 16, as the high-rank client receives it.
Run: OMP_NUM_THREADS=1 python benchmarks/rank_aggregation.py [--epochs 20] [--seeds 3]
"""

import argparse

import numpy as np
from datasets import Dataset

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.tasks import load_task
from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.partition_rows import split
from flasc_flwr.app.tasks.partitioning import partitioner
from flasc_flwr.app.training.examples import Examples
from flasc_flwr.app.training.lora import read_adapter
from flasc_flwr.core.aggregation import AGGREGATIONS, Contribution, aggregator
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.merged import merge
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.sparsity import top_k

CLIENTS, LOW, HIGH = 10, 4, 16


def shares(seed: int) -> list[Examples]:
    """Return each client's examples, the high-rank client's first and balanced."""
    private = parts()[1]
    labels = private["labels"].numpy()
    order = np.random.default_rng(seed).permutation(len(labels))
    balanced, rest = np.split(order, [len(order) // CLIENTS])
    made = partitioner(
        "flasc-dirichlet",
        num_partitions=CLIENTS - 1,
        label="label",
        seed=seed,
        alpha=0.3,
        classes_per_partition=2,
        user=None,
    )
    skewed = split(Dataset.from_dict({"label": labels[rest]}), made, CLIENTS - 1)
    chosen = [balanced, *(rest[rows] for rows in skewed)]
    return [Examples.of(private).select(rows) for rows in chosen]


def one(seed: int, epochs: int) -> dict[str, float]:
    """Return the test accuracies of one seed, in percent."""
    config = RunConfig(seed=seed, local_epochs=epochs)
    task = load_task(config)
    start = read_adapter(task.model)
    layout = Layout.of(start)
    vector = layout.flatten(start)
    contributions, result = [], {}
    for client, examples in enumerate(shares(seed)):
        cut = truncation(layout, LOW if client else HIGH)
        begin = cut.truncate(vector)
        task.load_adapter(cut.layout.unflatten(begin))
        task.train(examples, seed=seed)
        if client == 0:
            accuracy = task.evaluate(task.data.test).accuracy
            result["the client, before"] = 100 * accuracy
        update = cut.layout.flatten(read_adapter(task.model)) - begin
        lifted = cut.pad_sparse(top_k(update, 1.0))
        contributions.append(Contribution(lifted, cut.rank))
    for rule in AGGREGATIONS:
        cohort = aggregator(rule)(layout, vector)
        for contribution in contributions:
            cohort.add(contribution)
        aggregate = cohort.result()
        arrays = layout.unflatten(vector + aggregate.update)
        task.load_adapter(arrays, merge({}, aggregate.terms))
        result[f"`{rule}`"] = 100 * task.evaluate(task.data.test).accuracy
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    results = [one(seed, arguments.epochs) for seed in range(arguments.seeds)]
    before = np.mean([r["the client, before"] for r in results])
    print("| what is tested | accuracy, % | mean | drop, points |")
    print("|---|---|---|---|")
    for name in results[0]:
        values = [r[name] for r in results]
        listed = ", ".join(f"{value:.1f}" for value in values)
        drop = before - np.mean(values)
        print(f"| {name} | {listed} | {np.mean(values):.1f} | {drop:.1f} |")


if __name__ == "__main__":
    main()

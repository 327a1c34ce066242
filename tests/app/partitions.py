"""Rows to partition, and what came of it."""

import numpy as np
from datasets import Dataset

from flasc_flwr.app.tasks.flasc_dirichlet import (
    ColumnNormalisedDirichletPartitioner,
)
from flasc_flwr.app.tasks.partition_rows import split
from flasc_flwr.app.tasks.partitioning import partitioner

CLASSES = 10


def rows_of(counts, seed=0):
    """Return labels, in random order, with counts[c] of each class c."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


# Classes of different sizes, one with fewer rows than the most clients.
LABELS = rows_of([23, 40, 75, 90, 100, 110, 120, 130, 150, 200])
USERS = [f"user{row % 60}" for row in range(len(LABELS))]
DATA = Dataset.from_dict({"label": LABELS, "user": USERS, "index": LABELS})


def build(name, num_partitions=7, **changes):
    """Return a partitioner by name, with settings that fit `DATA`."""
    settings = {
        "label": "label",
        "seed": 0,
        "alpha": 1.0,
        "classes_per_partition": 2,
        "user": "user",
    }
    return partitioner(name, num_partitions=num_partitions, **settings | changes)


def flasc(num_partitions, alpha=1.0, labels=LABELS, **settings):
    made = ColumnNormalisedDirichletPartitioner(
        num_partitions, "label", alpha, **settings
    )
    return split(Dataset.from_dict({"label": labels}), made, num_partitions)


def table(parts, labels=LABELS):
    """Count the rows of each client (rows) and class (columns)."""
    return np.array([np.bincount(labels[part], minlength=CLASSES) for part in parts])


def with_rows(dataset):
    return dataset.add_column("row", np.arange(len(dataset)))


def load_all(made, dataset):
    made.dataset = dataset
    return [made.load_partition(i) for i in range(made.num_partitions)]

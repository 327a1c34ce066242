"""The partitioners, against the laws of a partition."""

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner

from flasc_flwr.app import config
from flasc_flwr.app.tasks.partition_rows import split
from flasc_flwr.app.tasks.partitioning import PARTITIONERS
from tests.app.partitions import (
    CLASSES,
    DATA,
    LABELS,
    USERS,
    build,
    flasc,
    load_all,
    rows_of,
    with_rows,
)

# Flower warns about classes that the pathological partitioner leaves out.
pytestmark = pytest.mark.filterwarnings("ignore:Classes")


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_name_splits_the_data(name):
    parts = split(DATA, build(name), 7)
    rows = sum(parts, [])
    assert len(parts) == 7 and all(parts)
    assert all(type(row) is int for row in rows)
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(len(DATA)))
    # There are more users than clients; and with two classes for each of seven clients,
    # some classes have no client.
    if name not in ("natural-id", "pathological"):
        assert len(rows) == len(DATA)


def test_dirichlet_is_flowers_partitioner():
    made = DirichletPartitioner(40, "label", 0.3, min_partition_size=1, seed=5)
    theirs = [part["row"][:] for part in load_all(made, with_rows(DATA))]
    # Some are smaller than Flower's default minimum.
    assert min(len(part) for part in theirs) < 10
    assert split(DATA, build("dirichlet", 40, alpha=0.3, seed=5), 40) == theirs


@pytest.mark.parametrize("name", sorted({*PARTITIONERS} - {"natural-id"}))
def test_a_seed_repeats_and_another_differs(name):
    assert split(DATA, build(name), 7) == split(DATA, build(name), 7)
    assert split(DATA, build(name), 7) != split(DATA, build(name, seed=1), 7)


def test_iid_parts_have_equal_sizes_and_the_mix_of_all():
    sorted_rows = Dataset.from_dict({"label": np.repeat(np.arange(4), 500)})
    parts = split(sorted_rows, build("iid", num_partitions=4), 4)
    assert [len(part) for part in parts] == [500] * 4
    mixes = np.array([np.bincount(np.array(part) // 500) for part in parts])
    assert np.abs(mixes - 125).max() < 50


@pytest.mark.parametrize("classes", [1, 3, CLASSES])
def test_pathological_parts_have_that_many_classes(classes):
    made = build("pathological", 10, classes_per_partition=classes)
    parts = split(DATA, made, 10)
    assert [len(set(LABELS[part])) for part in parts] == [classes] * 10
    # Ten clients and ten classes: each class has a client.
    assert len(sum(parts, [])) == len(DATA)


def test_natural_parts_are_the_users():
    parts = split(DATA, build("natural-id"), 60)
    assert sorted(sum(parts, [])) == list(range(len(DATA)))
    assert all(len({USERS[row] for row in part}) == 1 for part in parts)


@pytest.mark.parametrize(
    ("make", "num_partitions", "message"),
    [
        (lambda: build("dirichlot"), 7, "one of dirichlet, flasc-.* got 'dirichlot'"),
        (
            lambda: build("natural-id", user=None),
            7,
            "one of dirichlet, flasc-dirichlet, iid, pathological without a user-column"
            ", got 'natural-id'$",
        ),
        (
            lambda: build("pathological", classes_per_partition=0),
            7,
            "classes-per-partition .* got 0",
        ),
        (
            lambda: build("natural-id"),
            61,
            "num-partitions .* 60, the number of users, got 61",
        ),
        (lambda: build("iid"), 6, "num-partitions must be 7, .* got 6"),
        (lambda: build("iid"), 0, "num-partitions .* got 0"),
        (
            lambda: build("iid", len(LABELS) + 2),
            len(LABELS) + 2,
            "num-partitions .* 1038, the number of rows",
        ),
    ],
)
def test_what_cannot_be_split(make, num_partitions, message):
    with pytest.raises(ValueError, match=message):
        split(DATA, make(), num_partitions)


def test_the_run_config_knows_every_partitioner():
    assert tuple(PARTITIONERS) == config.PARTITIONERS


def test_many_small_clients_with_equal_shares_are_not_left_empty():
    """About six rows per client, at an alpha where all shares are nearly equal."""
    sizes = [len(part) for part in flasc(150, alpha=100, labels=rows_of([94] * 10))]
    assert min(sizes) >= 1 and max(sizes) < 20

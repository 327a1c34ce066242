"""The partitioners, against the laws of a partition and FLASC's formula."""

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner
from scipy import stats

from flasc_flwr.app import config
from flasc_flwr.app.tasks import flasc_dirichlet
from flasc_flwr.app.tasks.flasc_dirichlet import (
    ColumnNormalisedDirichletPartitioner,
    log_dirichlet,
)
from flasc_flwr.app.tasks.partitioning import (
    PARTITIONERS,
    Partitions,
    partitioner,
    split,
)

# Flower warns about classes that the pathological partitioner leaves out.
pytestmark = pytest.mark.filterwarnings("ignore:Classes")

ALPHAS = [0.01, 0.1, 1, 100]
CLASSES = 10


def rows_of(counts, seed=0):
    """Return labels, in random order, with counts[c] of each class c."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


# Classes of different sizes, one with fewer rows than the most clients.
LABELS = rows_of([23, 40, 75, 90, 100, 110, 120, 130, 150, 200])
USERS = [f"user{row % 60}" for row in range(len(LABELS))]
DATA = Dataset.from_dict({"label": LABELS, "user": USERS, "index": LABELS})


def flasc(num_partitions, alpha=1.0, labels=LABELS, **settings):
    made = ColumnNormalisedDirichletPartitioner(
        num_partitions, "label", alpha, **settings
    )
    return split(Dataset.from_dict({"label": labels}), made, num_partitions)


def build(name, num_partitions=7, **changes):
    settings = {
        "label": "label",
        "seed": 0,
        "alpha": 1.0,
        "classes_per_partition": 2,
        "user": "user",
    }
    return partitioner(name, num_partitions=num_partitions, **settings | changes)


def table(parts, labels=LABELS):
    """Count the rows of each client (rows) and class (columns)."""
    return np.array([np.bincount(labels[part], minlength=CLASSES) for part in parts])


def with_rows(dataset):
    return dataset.add_column("row", np.arange(len(dataset)))


def load_all(made, dataset):
    made.dataset = dataset
    return [made.load_partition(i) for i in range(made.num_partitions)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_partitions", [1, 7, 50])
@pytest.mark.parametrize("alpha", [1e-310, 1e-4, *ALPHAS, 1e6])
def test_every_row_goes_to_exactly_one_client(alpha, num_partitions, shuffle):
    made = ColumnNormalisedDirichletPartitioner(
        num_partitions, "label", alpha, shuffle=shuffle
    )
    parts = [part["row"][:] for part in load_all(made, with_rows(DATA))]
    assert len(parts) == num_partitions
    assert sorted(sum(parts, [])) == list(range(len(LABELS)))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_counts_are_those_of_flascs_formula(alpha, monkeypatch):
    """With mixes drawn by scipy, as in FLASC's code."""
    num_partitions, seed = 50, 3
    drawn = stats.dirichlet.rvs(
        np.repeat(alpha, CLASSES), size=num_partitions, random_state=seed
    )
    with np.errstate(divide="ignore"):
        logs = np.log(drawn)
    monkeypatch.setattr(flasc_dirichlet, "log_dirichlet", lambda *_: logs)
    parts = flasc(num_partitions, alpha, shuffle=False)

    per_class = np.bincount(LABELS)
    expected = (drawn / drawn.sum(axis=0) * per_class).round().astype(int)
    assert np.abs(table(parts) - expected).max() <= 1
    # FLASC's rounding does not add up to all rows; ours must.
    assert (table(parts).sum(axis=0) == per_class).all()
    assert (expected.sum(axis=0) != per_class).any()
    # A client's rows of a class follow those of the previous client.
    for label in range(CLASSES):
        in_turn = [row for part in parts for row in part if LABELS[row] == label]
        assert in_turn == np.flatnonzero(label == LABELS).tolist()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_draw_is_a_dirichlet_draw(alpha):
    logs = log_dirichlet(np.random.default_rng(0), alpha, 4000, CLASSES)
    assert np.isfinite(logs).all()
    drawn = np.exp(logs)
    np.testing.assert_allclose(drawn.sum(axis=1), 1, rtol=1e-9)
    marginal = stats.beta(alpha, (CLASSES - 1) * alpha)
    # Down to 1e-300, to find draws that underflow; NumPy's does from 1e-16.
    grid = np.concatenate([np.logspace(-300, -2, 300), np.linspace(0.01, 0.999, 200)])
    for column in drawn.T:
        seen = np.searchsorted(np.sort(column), grid, side="right") / len(column)
        # One column in a thousand would exceed this distance (Kolmogorov).
        assert np.abs(seen - marginal.cdf(grid)).max() < 1.95 / np.sqrt(len(column))


@pytest.mark.parametrize("seed", range(2))
def test_sizes_are_nearly_equal_while_labels_are_skewed(seed):
    """With CIFAR-10's counts and FLASC's 500 clients; not so in Flower's Dirichlet."""
    labels = rows_of([4000] * CLASSES)
    parts = flasc(500, 0.1, labels, seed=seed)
    sizes = np.array([len(part) for part in parts])
    assert sizes.mean() == 80 and sizes.std() < 10
    assert sizes.min() >= 60 and sizes.max() <= 130
    # One class has most of a client's rows; without skew it would have a tenth.
    assert np.mean(table(parts, labels).max(axis=1) / sizes) > 0.6

    library = DirichletPartitioner(500, "label", 0.1, min_partition_size=0, seed=seed)
    theirs = load_all(library, Dataset.from_dict({"label": labels}))
    assert np.std([len(part) for part in theirs]) > 5 * sizes.std()


def test_large_alpha_divides_each_class_evenly():
    counts = table(flasc(7, 1e6))
    assert np.abs(counts - np.bincount(LABELS) / 7).max() <= 1


def test_shuffling_leaves_no_order():
    rows = flasc(1)[0]
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.1
    assert abs(np.corrcoef(LABELS[rows], np.arange(len(rows)))[0, 1]) < 0.1
    # The same counts as without shuffling, but other rows.
    assert (table(flasc(7)) == table(flasc(7, shuffle=False))).all()
    assert {*flasc(7)[0]} != {*flasc(7, shuffle=False)[0]}


def test_labels_may_be_text():
    words = [f"class {label}" for label in LABELS]
    assert flasc(7, labels=words) == flasc(7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "alpha .* > 0, got 0"),
        ({"alpha": -1.0}, "alpha .* got -1.0"),
        ({"alpha": float("nan")}, "alpha .* got nan"),
        ({"alpha": float("inf")}, "alpha .* got inf"),
        ({"num_partitions": 0}, "num_partitions must be >= 1, got 0"),
        ({"min_partition_size": -1}, "min_partition_size .* got -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    settings = {"num_partitions": 2, "alpha": 1.0, "partition_by": "label"} | settings
    with pytest.raises(ValueError, match=message):
        ColumnNormalisedDirichletPartitioner(**settings)


def test_a_missing_column():
    made = ColumnNormalisedDirichletPartitioner(2, "colour", 1.0)
    made.dataset = DATA
    with pytest.raises(
        ValueError, match="partition_by .*label, user, index, got 'colour'"
    ):
        made.load_partition(0)


def one_sided(draws):
    """Return a fake draw: client 1 gets no rows in the first ``draws`` draws."""
    calls = []

    def draw(rng, alpha, clients, classes):
        calls.append(None)
        logs = np.zeros((clients, classes))
        logs[1] = -1e9 if len(calls) <= draws else 0
        return logs

    return draw


def test_small_clients_are_redrawn_ten_times(monkeypatch):
    monkeypatch.setattr(flasc_dirichlet, "log_dirichlet", one_sided(10))
    assert len(flasc(3)[1]) > 300
    monkeypatch.setattr(flasc_dirichlet, "log_dirichlet", one_sided(11))
    with pytest.raises(ValueError, match=r"partitions \[1\] have fewer rows"):
        flasc(3)
    monkeypatch.setattr(flasc_dirichlet, "log_dirichlet", one_sided(11))
    with pytest.raises(ValueError, match=r"partitions \[1\] of 3 have no rows"):
        flasc(3, min_partition_size=0)


def test_fewer_rows_than_clients():
    def made(least):
        result = ColumnNormalisedDirichletPartitioner(
            5, "label", 1.0, min_partition_size=least
        )
        result.dataset = Dataset.from_dict({"label": range(4)})
        return result

    with pytest.raises(ValueError, match="4 rows are too few for 5 partitions"):
        made(1).load_partition(0)
    parts = [made(0).load_partition(i)["label"][:] for i in range(5)]
    assert sorted(sum(parts, [])) == [0, 1, 2, 3]


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


def test_row_numbers_are_those_of_the_data_given():
    """Not those of the underlying table, of which the data may be a selection."""
    chosen = DATA.select(range(500, 100, -1)).with_format("torch")
    parts = split(chosen, build("pathological"), 7)
    for part in parts:
        assert len({int(label) for label in chosen.select(part)["label"]}) == 2
    parts = split(chosen, build("natural-id"), 7)
    for part in parts:
        assert len(set(chosen.select(part)["user"])) == 1


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


def partitions(**settings):
    return Partitions(config.RunConfig(**settings), labels=LABELS.tolist(), users=USERS)


def test_more_classes_per_partition_than_there_are_is_named_by_its_key():
    made = partitions(partitioner="pathological", classes_per_partition=CLASSES + 1)
    with pytest.raises(ValueError, match="classes-per-partition must be <= 10, .* 11$"):
        made.rows(0, 7)


@pytest.mark.parametrize(
    ("settings", "clients"),
    [
        ({"partitioner": "natural-id", "user_column": "user"}, 40),
        ({"partitioner": "pathological", "classes_per_partition": 1}, 3),
    ],
)
def test_rows_that_no_client_has_are_counted_in_the_log(caplog, settings, clients):
    made = partitions(**settings)
    count = sum(len(made.rows(part, clients)) for part in range(clients))
    said = f"{len(DATA) - count} of {len(DATA)} training rows are in none of the "
    assert count < len(DATA) and said in caplog.text


def test_nothing_is_said_where_every_row_has_a_client(caplog):
    partitions(partitioner="natural-id", user_column="user").rows(0, 60)
    partitions(partitioner="dirichlet").rows(0, 7)
    assert "in none of the" not in caplog.text

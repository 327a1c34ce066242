"""FLASC's Dirichlet partitioner, against its formula."""

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
from flasc_flwr.app.tasks.partition_rows import Partitions
from tests.app.partitions import (
    CLASSES,
    DATA,
    LABELS,
    USERS,
    flasc,
    load_all,
    rows_of,
    table,
    with_rows,
)

# Flower warns about classes that the pathological partitioner leaves out.
pytestmark = pytest.mark.filterwarnings("ignore:Classes")

ALPHAS = [0.01, 0.1, 1, 100]


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


def partitions(**settings):
    return Partitions(config.RunConfig(**settings), labels=LABELS.tolist(), users=USERS)

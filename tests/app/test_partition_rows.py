"""The rows of each partition, and what is said of rows in none."""

import pytest

from flasc_flwr.app import config
from flasc_flwr.app.tasks.partition_rows import Partitions, split
from tests.app.partitions import CLASSES, DATA, LABELS, USERS, build

# Flower warns about classes that the pathological partitioner leaves out.
pytestmark = pytest.mark.filterwarnings("ignore:Classes")


def test_row_numbers_are_those_of_the_data_given():
    """Not those of the underlying table, of which the data may be a selection."""
    chosen = DATA.select(range(500, 100, -1)).with_format("torch")
    parts = split(chosen, build("pathological"), 7)
    for part in parts:
        assert len({int(label) for label in chosen.select(part)["label"]}) == 2
    parts = split(chosen, build("natural-id"), 7)
    for part in parts:
        assert len(set(chosen.select(part)["user"])) == 1


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

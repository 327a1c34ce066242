"""How long and how a client trains in one round."""

import numpy as np
import pytest

from flasc_flwr.app.config import RunConfig
from flasc_flwr.app.training.lora import read_adapter
from tests.app.built import language_task

pytestmark = pytest.mark.usefixtures("built_cache")


def trained(root, **settings):
    """Return a client's outcome and its adapter after one round."""
    task = language_task(root, batch_size=3, **settings)
    examples = task.data.partition(0, 4)
    assert len(examples) == 9
    return task.train(examples, seed=0), read_adapter(task.model)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("epochs", "most", "steps"),
    [(2, 0, 6), (2, 1, 1), (2, 4, 4), (2, 6, 6), (2, 100, 6), (1, 4, 3)],
)
def test_a_round_ends_after_its_epochs_or_its_steps(root, epochs, most, steps):
    outcome, _ = trained(root, local_epochs=epochs, max_steps=most)
    assert outcome.steps == steps
    assert outcome.examples == 9


def test_the_steps_are_the_first_ones_of_the_epochs(root):
    _, one_epoch = trained(root, local_epochs=1)
    _, three_steps = trained(root, local_epochs=5, max_steps=3)
    _, four_steps = trained(root, local_epochs=5, max_steps=4)
    assert same(one_epoch, three_steps)
    assert not same(three_steps, four_steps)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"max-steps must be an integer >= 0, got -1"):
        RunConfig.parse({"max-steps": -1})

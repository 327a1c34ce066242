import numpy as np
import pytest

from flasc_flwr.aggregation import RunningMean
from flasc_flwr.sparsity import top_k


def updates(count, size, density):
    rng = np.random.default_rng(1)
    dense = rng.standard_normal((count, size)).astype(np.float32)
    return [top_k(row, density) for row in dense]


def test_the_mean_divides_by_the_cohort_not_by_who_sent_an_entry():
    sparse = updates(5, 40, 0.2)
    mean = RunningMean(40)
    for update in sparse:
        mean.add(update)
    expected = np.stack([u.densify() for u in sparse]).astype(np.float64).mean(0)
    np.testing.assert_allclose(mean.mean(), expected, rtol=1e-6)
    assert mean.mean().dtype == np.float32


def test_weights_weigh():
    sparse = updates(3, 40, 1.0)
    mean = RunningMean(40)
    for update, weight in zip(sparse, (1.0, 10.0, 5.0), strict=True):
        mean.add(update, weight)
    dense = np.stack([u.densify() for u in sparse])
    expected = np.average(dense, axis=0, weights=(1, 10, 5))
    np.testing.assert_allclose(mean.mean(), expected, rtol=1e-5, atol=1e-7)


def test_small_updates_survive_among_many():
    mean = RunningMean(1)
    for value in [1.0] + [1e-8] * 1000:
        mean.add(top_k(np.array([value], np.float32), 1.0))
    assert mean.mean()[0] == np.float32((1 + 1000 * np.float32(1e-8)) / 1001)


def test_bad_additions_are_refused():
    mean = RunningMean(40)
    with pytest.raises(ValueError, match="size 39, the mean has 40"):
        mean.add(top_k(np.ones(39, np.float32), 1.0))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight is"):
            mean.add(top_k(np.ones(40, np.float32), 1.0), weight)
    with pytest.raises(ValueError, match="no updates"):
        mean.mean()

import numpy as np
import pytest

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.sparsity import top_k

RNG = np.random.default_rng(0)
ARRAYS = {
    "wide.lora_A.weight": RNG.uniform(-0.1, 0.1, (4, 100)),
    "wide.lora_B.weight": np.zeros((6, 4)),
    "narrow.lora_A.weight": RNG.uniform(-0.5, 0.5, (4, 4)),
    "narrow.lora_B.weight": RNG.standard_normal((9, 4)),
    "classifier.weight": RNG.standard_normal((3, 7)),
    "classifier.bias": RNG.standard_normal(3),
}
LAYOUT = Layout.of({name: v.astype(np.float32) for name, v in ARRAYS.items()})
VECTOR = LAYOUT.flatten(ARRAYS)


def kept(sparse):
    """Return the fraction kept of each tensor."""
    mask = np.zeros(LAYOUT.size, bool)
    mask[sparse.positions] = True
    return {t.name: mask[place].mean() for t, place in LAYOUT.slices()}


def test_by_default_it_is_one_global_choice_by_magnitude():
    ours = Scoring().largest(LAYOUT, VECTOR, 0.1)
    np.testing.assert_array_equal(ours.positions, top_k(VECTOR, 0.1).positions)


def test_fan_in_ranks_by_magnitude_times_its_root():
    ours = Scoring(score="fan-in").largest(LAYOUT, VECTOR, 0.2)
    roots = [
        np.full(v.size, np.sqrt(v.shape[1] if v.ndim > 1 else 1))
        for v in ARRAYS.values()
    ]
    scores = np.abs(VECTOR) * np.concatenate(roots)
    expected = np.sort(np.argsort(-scores)[: int(LAYOUT.size * 0.2)])
    np.testing.assert_array_equal(ours.positions, expected)
    np.testing.assert_array_equal(ours.values, VECTOR[expected])
    # The wide module's A is small only because its fan-in is large.
    assert kept(ours)["wide.lora_A.weight"] > 0
    assert kept(Scoring().largest(LAYOUT, VECTOR, 0.05))["wide.lora_A.weight"] == 0


def test_a_quota_gives_every_tensor_its_share():
    ours = kept(Scoring(quota="tensor").largest(LAYOUT, VECTOR, 0.25))
    assert ours.pop("wide.lora_B.weight") == 0  # zeros are never sent
    assert ours.pop("classifier.bias") == pytest.approx(1 / 3)  # one, at least
    for name, fraction in ours.items():
        assert fraction == pytest.approx(0.25, abs=0.05), name


@pytest.mark.parametrize("quota", ["none", "tensor"])
def test_a_whole_head_does_not_compete(quota):
    scoring = Scoring(quota=quota, whole_head=True)
    ours = kept(scoring.largest(LAYOUT, VECTOR, 0.25))
    assert ours["classifier.weight"] == ours["classifier.bias"] == 1
    factors = LAYOUT.size - 24
    rest = sum(
        ours[t.name] * t.size for t in LAYOUT.tensors if t.name.startswith(("w", "n"))
    )
    if quota == "none":
        assert rest == int(factors * 0.25)


def test_density_one_keeps_all_that_is_not_zero():
    for scoring in (Scoring(), Scoring(score="fan-in", quota="tensor")):
        ours = scoring.largest(LAYOUT, VECTOR, 1.0)
        np.testing.assert_array_equal(ours.densify(), VECTOR)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="score must be one of"):
        Scoring(score="size")
    with pytest.raises(ValueError, match="quota must be one of"):
        Scoring(quota="module")

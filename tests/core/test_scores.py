import numpy as np
import pytest

from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.scores import Scoring, partner_norms
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


def grown(seed=0):
    """Return an adapter whose B is not zero."""
    rng = np.random.default_rng(seed)
    return {
        n: rng.standard_normal(v.shape).astype(np.float32) for n, v in ARRAYS.items()
    }


def loss_of_product(arrays, name, index):
    """Return by how much B A changes, as a norm, if one entry is zero."""
    without = {n: v.astype(np.float64) for n, v in arrays.items()}
    without[name][index] = 0
    module = name.split(".")[0]
    a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    if a not in arrays:
        return np.linalg.norm(arrays[name] - without[name])
    before = arrays[b].astype(np.float64) @ arrays[a].astype(np.float64)
    return np.linalg.norm(before - without[b] @ without[a])


def test_product_ranks_by_what_an_entry_adds_to_the_product():
    arrays = grown()
    vector = LAYOUT.flatten(arrays)
    ours = Scoring(score="product").largest(LAYOUT, vector, 0.3)
    scores = np.array(
        [
            loss_of_product(arrays, name, index)
            for name, value in arrays.items()
            for index in np.ndindex(value.shape)
        ]
    )
    expected = np.sort(np.argsort(-scores)[: int(LAYOUT.size * 0.3)])
    np.testing.assert_array_equal(ours.positions, expected)
    np.testing.assert_array_equal(ours.values, vector[expected])


def test_of_a_difference_product_takes_the_norms_of_the_adapter_itself():
    arrays = grown()
    weights = LAYOUT.flatten(arrays)
    difference = LAYOUT.flatten(grown(1))
    ours = Scoring(score="product", weights=weights).largest(LAYOUT, difference, 0.3)
    norms = partner_norms(LAYOUT, weights)
    expected = np.sort(np.argsort(-np.abs(difference) * norms)[: len(ours.positions)])
    np.testing.assert_array_equal(ours.positions, expected)
    b = arrays["narrow.lora_B.weight"]
    for tensor, place in LAYOUT.slices():
        if tensor.name == "narrow.lora_A.weight":
            rows = norms[place].reshape(tensor.shape)
            np.testing.assert_allclose(rows[:, 0], np.linalg.norm(b, axis=0), rtol=1e-6)
        if tensor.name.startswith("classifier"):
            assert (norms[place] == 1).all()


def test_components_whose_partner_is_zero_still_compete():
    """Before B has grown nothing of A adds to the product, and yet it has to travel."""
    arrays = grown()
    for name in arrays:
        if "lora_B" in name:
            arrays[name][:] = 0
    vector = LAYOUT.flatten(arrays)
    ours = Scoring(score="product").largest(LAYOUT, vector, 0.25)
    np.testing.assert_array_equal(ours.positions, top_k(vector, 0.25).positions)
    arrays["narrow.lora_B.weight"][:] = 3.0
    norms = partner_norms(LAYOUT, LAYOUT.flatten(arrays))
    a = next(p for t, p in LAYOUT.slices() if t.name == "wide.lora_A.weight")
    np.testing.assert_allclose(norms[a], 9.0)  # as the others: 3 times sqrt(9)


def test_product_is_magnitude_for_an_adapter_without_factors():
    layout = Layout.of({"w": np.ones((3, 4), np.float32)})
    vector = np.arange(12, dtype=np.float32)
    ours = Scoring(score="product").largest(layout, vector, 0.5)
    np.testing.assert_array_equal(ours.positions, top_k(vector, 0.5).positions)


@pytest.mark.parametrize("scale", [2.0**126, 2.0**70, 2.0**-70, 2.0**-128])
@pytest.mark.parametrize("score", ["fan-in", "product"])
def test_scores_outside_the_range_of_float32_order_all_the_same(scale, score):
    """They were infinite, which was refused, or zero, which is never kept."""
    scaled = (VECTOR / np.abs(VECTOR).max() * scale).astype(np.float32)
    factors = partner_norms(LAYOUT, scaled).astype(float)
    if score == "fan-in":
        fans = [v.shape[1] if v.ndim > 1 else 1 for v in ARRAYS.values()]
        factors = np.repeat(np.sqrt(fans), [v.size for v in ARRAYS.values()])
    scores = np.abs(scaled.astype(float)) * factors
    for density in (0.05, 0.2, 0.6):
        ours = Scoring(score=score).largest(LAYOUT, scaled, density)
        order = np.argsort(-scores, kind="stable")
        expected = np.sort(order[: int(LAYOUT.size * density)])
        np.testing.assert_array_equal(ours.positions, expected)
        np.testing.assert_array_equal(ours.values, scaled[expected])
        shares = Scoring(score=score, quota="tensor").largest(LAYOUT, scaled, density)
        assert shares.kept > 0.8 * len(expected)
    with pytest.raises(ValueError, match="must be finite"):
        Scoring(score=score).largest(LAYOUT, scaled * np.float32(np.nan), 0.2)


def test_norms_beyond_float32_are_not_infinite():
    large = np.full(LAYOUT.size, np.finfo(np.float32).max)
    norms = partner_norms(LAYOUT, large)
    assert np.isfinite(norms).all() and norms.max() > np.finfo(np.float32).max
    assert partner_norms(LAYOUT, VECTOR).dtype == np.float32

import numpy as np
import pytest

from flasc_flwr.core.initial import seeded_factors
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.tiers import TIERS, Tier, tier_of
from flasc_flwr.core.ranks import components, rank_of, truncation
from flasc_flwr.core.sparsity import top_k
from tests.core.cohort import LAYOUT, RANK, START, random_adapter


def test_a_truncation_takes_rows_of_a_and_columns_of_b():
    cut = truncation(LAYOUT, 2)
    arrays = cut.layout.unflatten(cut.truncate(LAYOUT.flatten(START)))
    for name, value in START.items():
        expected = value
        if ".lora_A." in name:
            expected = value[:2]
        elif ".lora_B." in name:
            expected = value[:, :2]
        np.testing.assert_array_equal(arrays[name], expected)
    assert rank_of(cut.layout) == 2 and rank_of(LAYOUT) == RANK


def test_padding_inverts_truncation():
    for rank in (1, 2, 5, 6, 99, None):
        for scale in ("common", "own"):
            cut = truncation(LAYOUT, rank, scale)
            vector = LAYOUT.flatten(START)
            padded = cut.pad_sparse(top_k(cut.truncate(vector), 1.0)).densify()
            kept = components(LAYOUT) < (rank or RANK)
            np.testing.assert_allclose(padded, np.where(kept, vector, 0), rtol=1e-6)
            np.testing.assert_allclose(cut.pad(cut.truncate(vector)), padded, rtol=1e-6)


def test_under_its_own_scale_the_product_means_the_same():
    """alpha / r_k times B_k A is alpha / r times B A, of the components kept."""
    alpha, rank = 16.0, 2
    cut = truncation(LAYOUT, rank, "own")
    own = cut.layout.unflatten(cut.truncate(LAYOUT.flatten(START)))
    ours = alpha / rank * own["one.lora_B.weight"] @ own["one.lora_A.weight"]
    b, a = START["one.lora_B.weight"][:, :rank], START["one.lora_A.weight"][:rank]
    np.testing.assert_allclose(ours, alpha / RANK * b @ a, rtol=1e-5)


def test_a_truncation_of_convolutions_follows_their_rank_axes():
    arrays = {
        "conv.lora_A.weight": np.arange(4 * 3 * 3 * 3, dtype=np.float32),
        "conv.lora_B.weight": np.arange(5 * 4, dtype=np.float32),
    }
    arrays["conv.lora_A.weight"].shape = (4, 3, 3, 3)
    arrays["conv.lora_B.weight"].shape = (5, 4, 1, 1)
    layout = Layout.of(arrays)
    cut = truncation(layout, 2)
    taken = cut.layout.unflatten(cut.truncate(layout.flatten(arrays)))
    assert taken["conv.lora_A.weight"].shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(
        taken["conv.lora_B.weight"], arrays["conv.lora_B.weight"][:, :2]
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_modules_of_unequal_ranks_have_their_own_scale(rank):
    rng = np.random.default_rng(0)
    ranks = {"wide": 4, "narrow": 2}
    arrays = {}
    for name, r in ranks.items():
        arrays[f"{name}.lora_A.weight"] = rng.standard_normal((r, 5), np.float32)
        arrays[f"{name}.lora_B.weight"] = rng.standard_normal((3, r), np.float32)
    layout = Layout.of(arrays)
    cut = truncation(layout, rank, "own")
    own = cut.layout.unflatten(cut.truncate(layout.flatten(arrays)))
    for name, r in ranks.items():
        kept = min(rank, r)
        a, b = (arrays[f"{name}.lora_{f}.weight"] for f in "AB")
        ours = own[f"{name}.lora_B.weight"] @ own[f"{name}.lora_A.weight"] / kept
        np.testing.assert_allclose(ours, b[:, :kept] @ a[:kept] / r, rtol=1e-5)


def test_bad_ranks_and_scales_are_refused():
    with pytest.raises(ValueError, match="rank must be an integer"):
        truncation(LAYOUT, 0)
    with pytest.raises(ValueError, match="rank-scale must be one of"):
        truncation(LAYOUT, 2, "mine")


def test_seeded_factors_have_pefts_distribution_and_truncate():
    arrays = {
        "wide.lora_A.weight": np.zeros((16, 900), np.float32),
        "wide.lora_B.weight": np.zeros((30, 16), np.float32),
        "classifier.weight": np.zeros((3, 5), np.float32),
    }
    layout = Layout.of(arrays)
    vector = seeded_factors(layout, 3)
    a = layout.unflatten(vector)["wide.lora_A.weight"]
    assert np.abs(a).max() <= 1 / 30 and np.abs(a).max() > 0.99 / 30
    # A uniform distribution's mean and variance, over 14,400 draws.
    assert abs(a.mean()) < 4 / 30 / np.sqrt(3 * a.size)
    assert a.var() == pytest.approx(1 / 900 / 3, rel=0.03)
    assert np.count_nonzero(vector) == a.size
    cut = truncation(layout, 4)
    np.testing.assert_array_equal(seeded_factors(cut.layout, 3), cut.truncate(vector))
    assert not np.array_equal(seeded_factors(layout, 4), vector)


def test_seeded_factors_are_the_same_on_every_machine():
    layout = Layout.of(random_adapter(0))
    expected = [-0.28780907, 0.2002682, -0.019099573, -0.17746979]
    np.testing.assert_allclose(seeded_factors(layout, 0)[:4], expected, rtol=1e-6)


def test_a_devices_rank_is_a_limit():
    budget = Budget(download_density=1.0, upload_density=0.5)
    assert budget.limited_by({"lora-rank": 4}).rank == 4
    assert budget.at_most(8).limited_by({"lora-rank": 16}).rank == 8
    assert budget.limited_by({}).rank is None
    with pytest.raises(ValueError, match="lora-rank must be an integer"):
        budget.limited_by({"lora-rank": 0})


def test_tiers_are_assigned_by_number_or_by_the_device():
    assert [tier_of(str(i), {}, 3) for i in range(4)] == [0, 1, 2, 0]
    assert tier_of("7", {"tier": 2}, 3) == 2
    assert tier_of("phone", {}, 3) == tier_of("phone", {}, 3)
    for wrong in (3, -1, "2", True):
        with pytest.raises(ValueError, match="tier must be .* 0 to 2, got"):
            tier_of("7", {"tier": wrong}, 3)


def test_tiers_are_flascs():
    budget = Budget(download_density=0.3, upload_density=0.2)
    densities = [tier.of(budget).download_density for tier in TIERS["density"]]
    assert densities == [1 / 16, 1 / 4, 1.0]
    assert [tier.of(budget).rank for tier in TIERS["rank"]] == [1, 4, None]
    assert Tier().of(budget) == budget

"""Densities of roles: which entries compete with which, and bytes that limit them."""

import numpy as np
import pytest

from flasc_flwr.core.codec import decode, require_head
from flasc_flwr.core.fitting import fit_payload
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.least import require_bytes
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.methods.table import compose
from flasc_flwr.core.sparsity import top_k

RNG = np.random.default_rng(0)
ARRAYS = {
    "m.lora_A.weight": RNG.normal(0, 1, (4, 50)),
    "m.lora_B.weight": RNG.normal(0, 1, (30, 4)),
    "m.lora_magnitude_vector.weight": RNG.normal(0, 1, 30),
    "classifier.weight": RNG.normal(0, 9, (10, 20)),
    "classifier.bias": RNG.normal(0, 9, 10),
}
LAYOUT = Layout.of({name: v.astype(np.float32) for name, v in ARRAYS.items()})
VECTOR = LAYOUT.flatten(ARRAYS)
SIZES = {Role.A: 200, Role.B: 120, Role.OTHER: 30, Role.HEAD: 210}


def kept(sparse):
    """Return the number of entries kept of each role."""
    counts = dict.fromkeys(SIZES, 0)
    for tensor, count in zip(
        LAYOUT.tensors, LAYOUT.counts(sparse.positions), strict=True
    ):
        counts[tensor.role] += int(count)
    return counts


def test_a_role_has_its_own_fraction_and_the_others_compete():
    scoring = Scoring(roles=RoleDensities(head=1 / 10, b=1 / 2))
    found = kept(scoring.largest(LAYOUT, VECTOR, 1 / 4))
    assert found[Role.HEAD] == 21 and found[Role.B] == 60
    assert found[Role.A] + found[Role.OTHER] == int(230 / 4)
    # The largest of each, by an independent choice.
    places = np.concatenate(
        [np.arange(p.start, p.stop) for t, p in LAYOUT.slices() if t.role is Role.HEAD]
    )
    largest = places[np.argsort(-np.abs(VECTOR[places]))[:21]]
    positions = scoring.largest(LAYOUT, VECTOR, 1 / 4).positions
    assert set(largest) == set(positions) & set(places)


def test_it_holds_where_everything_else_travels():
    found = kept(Scoring(roles=RoleDensities(head=1 / 10)).largest(LAYOUT, VECTOR, 1.0))
    assert found == SIZES | {Role.HEAD: 21}


@pytest.mark.parametrize("name", ["dense", "flasc", "sparse-adapter"])
def test_every_download_rule_keeps_to_it(name):
    method = compose(name, roles=RoleDensities(head=1 / 10))
    sent = method.selection(LAYOUT, VECTOR, 1.0, {})(1.0)
    assert kept(sent) == SIZES | {Role.HEAD: 21}


def test_it_holds_with_a_quota_for_each_tensor():
    scoring = Scoring(quota="tensor", roles=RoleDensities(head=1 / 10))
    assert kept(scoring.largest(LAYOUT, VECTOR, 1 / 2)) == {
        **{role: size // 2 for role, size in SIZES.items()},
        Role.HEAD: 20 + 1,
    }


def test_a_whole_head_gives_way():
    both = Scoring(whole_head=True, roles=RoleDensities(a=1 / 2))
    found = kept(both.largest(LAYOUT, VECTOR, 1 / 4))
    assert found[Role.HEAD] == 210 and found[Role.A] == 100
    own = Scoring(whole_head=True, roles=RoleDensities(head=1 / 2))
    assert kept(own.largest(LAYOUT, VECTOR, 1 / 4))[Role.HEAD] == 105


def test_without_any_nothing_changes():
    for density in (0.01, 0.25, 1.0):
        ours = Scoring(roles=RoleDensities()).largest(LAYOUT, VECTOR, density)
        np.testing.assert_array_equal(ours.positions, top_k(VECTOR, density).positions)


@pytest.mark.parametrize("most", [120, 200, 400, 800])
def test_bytes_shrink_all_roles_alike(most):
    method = compose("flasc", roles=RoleDensities(head=1 / 5, a=1.0))
    select = method.selection(LAYOUT, VECTOR, 0.5, {})
    fitted = fit_payload(
        select,
        "bfloat16",
        layout=LAYOUT,
        size=LAYOUT.size,
        density=0.5,
        most=most,
        key="download-bytes",
    )
    assert len(fitted.payload) <= most
    assert decode(fitted.payload, LAYOUT.size).kept == fitted.sparse.kept
    found, whole = kept(fitted.sparse), kept(select(0.5))
    shares = [found[r] / whole[r] for r in (Role.A, Role.HEAD)]
    assert shares[0] == pytest.approx(shares[1], abs=0.06)


def test_the_least_bytes_are_those_of_one_entry():
    scoring = Scoring(roles=RoleDensities(a=1.0, head=1.0))
    for checked in (scoring, Scoring()):
        with pytest.raises(ValueError, match="download-bytes must be >= 1.. for"):
            require_bytes(Budget(download_bytes=20), LAYOUT, "int8", checked)
    one = scoring.largest(LAYOUT, VECTOR, 1e-3, 1e-3)
    assert one.kept == 1 and abs(one.values[0]) == np.abs(VECTOR).max()


def test_the_most_that_a_device_is_asked_for():
    roles = RoleDensities(head=1 / 10)
    assert roles.most(LAYOUT, 1 / 4) == 21 + int(350 / 4)
    sparse = Scoring(roles=roles).largest(LAYOUT, VECTOR, 1 / 4)
    assert sparse.kept == roles.most(LAYOUT, 1 / 4)


@pytest.mark.parametrize(
    ("roles", "of", "message"),
    [
        ({"a": 0.5}, Role.HEAD, "a-density .* no such tensors, got 0.5; use head-dens"),
        (
            {"head": 0.5},
            Role.OTHER,
            "head-density must be 'auto' .*; use other",
        ),
        ({"other": 0.5}, Role.CORE, "other-density .*; use download-density instead"),
    ],
)
def test_a_density_without_tensors_is_refused(roles, of, message):
    RoleDensities(**roles).require_tensors(LAYOUT)
    shape = (2, 2) if of is Role.CORE else (3,)
    layout = Layout.of({"w": np.zeros(shape, np.float32)}, {"w": of})
    RoleDensities().require_tensors(layout)
    with pytest.raises(ValueError, match=message):
        RoleDensities(**roles).require_tensors(layout)


def test_a_format_without_a_head_is_refused():
    require_head("int8+head=int4", LAYOUT)
    plain = Layout.of({"w": np.zeros(3, np.float32)})
    require_head("int8", plain)
    with pytest.raises(ValueError, match="head-format must .* 'int4'; use value-form"):
        require_head("int8+head=int4", plain)


def test_they_travel_as_a_list():
    roles = RoleDensities(a=0.5, head=0.25)
    assert RoleDensities.of(roles.to_list()) == roles
    for wrong in ([0.5], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, -1.0, 0.0]):
        with pytest.raises(ValueError, match="densit"):
            RoleDensities.of(wrong)


@pytest.mark.parametrize(
    "parts", [{"upload_segments": 4}, {"name": "flasc-shared-mask"}]
)
def test_where_all_send_the_same_entries_they_are_refused(parts):
    name = parts.pop("name", "flasc")
    with pytest.raises(ValueError, match="densities of roles .* must be 'auto'"):
        compose(name, roles=RoleDensities(head=0.5), **parts)

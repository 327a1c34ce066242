"""The fewest bytes that are accepted: enough for whatever a vector holds."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasc_flwr.core.codec import VALUE_FORMATS, decode, encode
from flasc_flwr.core.fitting import fit_payload
from flasc_flwr.core.layout import Layout, Role
from flasc_flwr.core.methods import least as module
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.least import require_bytes, require_upload_bytes
from flasc_flwr.core.methods.role_densities import RoleDensities
from flasc_flwr.core.methods.scores import Scoring
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.ranks import truncation
from flasc_flwr.core.segments import Segment
from flasc_flwr.core.sparsity import SparseVector, top_k
from tests.peak import peak_of

FORMATS = [*VALUE_FORMATS, "int4+head=int8", "step+head=float16", "float32+head=step"]
SHAPES = {
    "q.lora_A.weight": (4, 90),
    "q.lora_B.weight": (70, 4),
    "q.lora_core": (8, 4),
    "q.lora_magnitude_vector.weight": (70,),
    "classifier.weight": (5, 30),
}
LAYOUT = Layout.of({name: np.zeros(each, np.float32) for name, each in SHAPES.items()})
N = LAYOUT.size
VALUES = [1.7, -2.0, np.pi, 1e-45, 3.3e38, -1e-30]


def least(way, layout, values, scoring=None):
    """Return the lowest limit that is accepted."""
    budget = Budget(**{f"{way}_bytes": 1})
    with pytest.raises(ValueError, match=f"{way}-bytes must be >= ") as raised:
        require_bytes(budget, layout, values, scoring or Scoring())
    found = int(re.findall(r">= (\d+) for this adapter, got 1$", str(raised.value))[0])
    limit = Budget(**{f"{way}_bytes": found})
    require_bytes(limit, layout, values, scoring or Scoring())
    return found


def one(size, position, value=1.7):
    return SparseVector(size, np.array([position], np.int64), np.float32([value]))


def fitted(select, values, most, density, *, size=N, layout=LAYOUT, carry=False):
    return fit_payload(
        select,
        values,
        layout=layout,
        size=size,
        density=density,
        most=most,
        key="bytes",
        carry_layout=carry,
    )


@st.composite
def layouts(draw):
    axes = st.lists(st.integers(0, 40), max_size=2).map(tuple)
    shapes = draw(st.lists(axes, min_size=1, max_size=6))
    roles = draw(st.lists(st.sampled_from(list(Role)), min_size=6, max_size=6))
    arrays = {str(i): np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    named = {
        str(i): Role.OTHER if role is Role.CORE else role
        for i, role in enumerate(roles[: len(shapes)])
    }
    return Layout.of(arrays, named)


@settings(max_examples=25)
@given(layouts(), st.sampled_from(FORMATS), st.booleans())
def test_any_single_entry_fits_and_one_needs_almost_all(layout, values, carry):
    if not layout.size:
        return
    enough = least("download" if carry else "upload", layout, values)
    worst = 0
    for position in range(0, layout.size, max(1, layout.size // 50)):
        for value in VALUES[: 1 if carry else None]:
            sparse = one(layout.size, position, value)
            payload = encode(sparse, values, layout=layout, carry_layout=carry)
            worst = max(worst, len(payload))
    assert enough - 6 <= worst <= enough


@pytest.mark.parametrize("values", FORMATS)
def test_the_last_entry_of_the_longest_block_takes_the_most(values):
    """Neither the largest tensor nor the adapter ends there."""
    zero = np.zeros((), np.float32)
    sizes = {"a": 3, "b": 1 << 20, "c": 100, "d": 300_000}
    layout = Layout.of({name: np.broadcast_to(zero, n) for name, n in sizes.items()})
    enough = least("upload", layout, values)
    longest = 3 + (1 << 20) - (1 << 16)
    for position in (0, 2, 3, longest - 1, longest, 3 + (1 << 20), layout.size - 1):
        for known in (layout, None):
            sparse = one(layout.size, position)
            assert len(encode(sparse, values, layout=known)) <= enough


ROLES = RoleDensities(a=1.0, head=1 / 2)
SCORINGS = {
    "magnitude": Scoring(),
    "fan-in": Scoring(score="fan-in"),
    "product": Scoring(score="product"),
    "quota": Scoring(quota="tensor"),
    "whole head": Scoring(whole_head=True),
    "both": Scoring(quota="tensor", whole_head=True),
    "roles": Scoring(roles=ROLES),
    "roles and quota": Scoring(roles=ROLES, quota="tensor"),
    "roles and head": Scoring(roles=RoleDensities(b=1.0), whole_head=True),
}


def drawn(kind, seed):
    """Return a vector that is hard to compress, or has few entries."""
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(N).astype(np.float32)
    if kind == "spread":
        vector *= np.exp2(rng.uniform(-120, 120, N)).astype(np.float32)
    elif kind == "levels":
        vector = rng.integers(-7, 8, N).astype(np.float32)
    elif kind == "holes":
        vector[rng.random(N) < 0.06] = 0
    elif kind == "one":
        vector[np.arange(N) != seed * 97 % N] = 0
    return vector


KINDS = ["normal", "spread", "levels", "holes", "one"]


def test_the_limits_of_small_shares_are_shares_of_one_entry():
    for name in ("roles", "roles and head", "product"):
        alone = least("download", LAYOUT, "int8")
        assert least("download", LAYOUT, "int8", SCORINGS[name]) == alone
    head = 5 * 30
    for name in ("whole head", "both"):
        more = least("download", LAYOUT, "float32", SCORINGS[name])
        assert more > least("download", LAYOUT, "float32") + 3 * head
    assert least("download", LAYOUT, "int8", SCORINGS["quota"]) > alone + 4


@pytest.mark.parametrize("name", SCORINGS)
@pytest.mark.parametrize("values", ["float32", "int4", "step", "int4+head=int8"])
def test_the_fewest_bytes_of_a_download_hold_whatever_the_vector(name, values):
    method = replace(METHODS["flasc"], scoring=SCORINGS[name])
    most = least("download", LAYOUT, values, method.scoring)
    for seed, kind in enumerate(KINDS):
        vector = drawn(kind, seed)
        for density in (1 / 4, 3 / N, 1 / 4096):
            select = method.selection(LAYOUT, vector, density, {})
            made = fitted(select, values, most, density, carry=True)
            assert len(made.payload) <= most
            sent = decode(made.payload, N)
            assert sent.kept > 0
            assert np.isin(sent.positions, select(density).positions).all()
            if not method.scoring.roles:  # then no share is cut either
                share = select(min(1.5 / N, density)).positions
                assert np.isin(share, made.sparse.positions).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", ["bfloat16", "int4", "step", "float32+head=step"])
def test_the_fewest_bytes_of_an_upload_hold_whatever_the_update(kind, values):
    most = least("upload", LAYOUT, values)
    update = drawn(kind, 3)
    for roles in (RoleDensities(), ROLES, RoleDensities(a=1.0, b=1.0, head=1.0)):
        for density in (1 / 4, 2 / N, 1 / 4096):

            def select(share, roles=roles, density=density):
                scoring = Scoring(roles=roles)
                return scoring.largest(LAYOUT, update, share, share / density)

            made = fitted(select, values, most, density)
            assert len(made.payload) <= most and decode(made.payload, N).kept > 0


@pytest.mark.parametrize("values", FORMATS)
def test_they_hold_for_a_segment_and_for_a_support(values):
    most = least("upload", LAYOUT, values)
    update = drawn("normal", 0)
    for index in range(7):
        place = Segment(index, 7).place(N)

        def of_segment(share, place=place):
            sparse = top_k(update[place], share)
            return SparseVector(N, sparse.positions + place.start, sparse.values)

        size = place.stop - place.start
        made = fitted(of_segment, values, most, 1 / 4, size=size)
        assert 1 <= made.sparse.kept <= 40
    support = update[: N // 3]
    made = fitted(partial(top_k, support), values, most, 1.0, size=N, layout=None)
    assert made.sparse.kept >= 1


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("values", ["bfloat16", "step", "int4+head=int8"])
def test_they_hold_at_every_rank(rank, values):
    layout = truncation(LAYOUT, rank).layout
    for way, carry in (("upload", False), ("download", True)):
        most = least(way, layout, values)
        for position in range(0, layout.size, 5):
            vector = np.zeros(layout.size, np.float32)
            vector[position] = 3.14
            select = partial(top_k, vector)
            made = fitted(select, values, most, 1.0, size=N, layout=layout, carry=carry)
            assert made.sparse.positions.tolist() == [position]


def test_of_shares_that_do_not_fit_the_largest_entries_are_sent():
    vector = drawn("normal", 1)
    density = 2 / N
    scoring = Scoring(roles=RoleDensities(a=1.0, head=1.0))
    select = partial(scoring.largest, LAYOUT, vector)
    place = next(place for tensor, place in LAYOUT.slices() if tensor.role is Role.A)
    kept = []
    for most in (70, 100, 200):
        made = fitted(
            lambda share: select(share, share / density), "bfloat16", most, density
        )
        assert 0.8 * most <= len(made.payload) <= most
        assert np.isin(np.argmax(np.abs(vector[place])), made.sparse.positions)
        kept.append(made.sparse.kept)
    assert kept == sorted(kept) and kept[0] >= 3


def test_without_a_limit_no_payload_is_made_to_know_the_fewest_bytes(monkeypatch):
    asked = []

    def noted(layout, values, **_):
        asked.append(values)
        return 0

    monkeypatch.setattr(module, "most_bytes_of_one_entry", noted)
    layout = Layout.of({"w": np.zeros(1001, np.float32)})
    require_bytes(Budget(), layout, "int4")
    require_upload_bytes(0, layout, "int4")
    assert asked == []
    require_bytes(Budget(download_bytes=99, upload_bytes=99), layout, "int4")
    assert asked == ["int4"] * 2


def test_the_fewest_bytes_of_a_large_adapter_take_no_memory_of_its_size():
    size = 1 << 24
    layout = Layout.of({"w": np.broadcast_to(np.float32(0), size)})
    assert peak_of(require_bytes, Budget(download_bytes=999), layout, "step") < size / 8

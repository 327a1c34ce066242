"""Coders compared at equal error: curves, others' formats, and the tables."""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"
DOCS = BENCHMARKS.parent / "docs"


@pytest.fixture(autouse=True)
def _siblings(monkeypatch):
    # One benchmark imports another by name, as Python does for a script.
    monkeypatch.syspath_prepend(BENCHMARKS)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def point(length, whole, coder="a"):
    from distortion_curves import Point

    return Point("vector", coder, "", "", length, whole, whole)


def test_bytes_between_two_points_are_linear_in_logarithms():
    from distortion_curves import bytes_at

    curve = [point(100, 0.4), point(144, 0.1)]
    assert bytes_at(0.4, curve, "whole") == pytest.approx(100)
    assert bytes_at(0.2, curve, "whole") == pytest.approx(120)
    assert bytes_at(0.1, curve, "whole") == pytest.approx(144)


def test_nothing_is_read_beyond_a_curve():
    from distortion_curves import bytes_at

    curve = [point(100, 0.4), point(144, 0.1)]
    assert bytes_at(0.09, curve, "whole") is None
    assert bytes_at(0.9, curve, "whole") == 100
    assert bytes_at(0.4, curve[:1], "whole") == 100
    assert bytes_at(0.4, [], "whole") is None


def test_a_wide_gap_costs_its_better_point():
    from distortion_curves import bytes_at

    assert bytes_at(0.39, [point(100, 0.4), point(500, 0.1)], "whole") == 500


def test_a_point_that_a_cheaper_one_beats_is_not_on_the_curve():
    from distortion_curves import bytes_at

    curve = [point(100, 0.4), point(120, 0.5), point(144, 0.1)]
    assert bytes_at(0.2, curve, "whole") == pytest.approx(120)


def test_errors_of_the_vector_and_over_tensors_that_are_not_zero():
    from distortion_curves import errors

    exact = [np.array([3.0, 4.0]), np.array([1.0]), np.zeros(2)]
    decoded = [np.array([3.0, 0.0]), np.array([1.0]), np.zeros(2)]
    whole, mean = errors(exact, decoded)
    assert whole == pytest.approx(16 / 26)
    assert mean == pytest.approx((16 / 25 + 0) / 2)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_eden_has_the_error_of_the_best_normal_quantizer(bits, error):
    # Max 1960, "Quantizing for minimum distortion", table I.
    from distortion_coders import _rotated

    vector = np.random.default_rng(3).standard_normal(1 << 16).astype(np.float32)
    length, decoded, gain = _rotated(vector, bits)
    difference = vector - decoded
    assert length == 4 + bits * len(vector) // 8
    assert difference @ difference / (vector @ vector) == pytest.approx(error, rel=0.02)
    # The published scale: what is decoded has the vector's own projection on itself.
    assert gain * decoded @ vector / (vector @ vector) == pytest.approx(1, rel=1e-4)


def test_the_levels_of_nf4_are_the_published_ones():
    # Dettmers et al. 2023, appendix E.
    from distortion_coders import nf4_levels

    levels = nf4_levels()
    assert len(levels) == 16
    some = {0: -1, 1: -0.6961928, 2: -0.5250731, 7: 0, 8: 0.0795803, 14: 0.722957}
    for index, level in some.items():
        assert levels[index] == pytest.approx(level, abs=1e-6)
    assert levels[15] == 1


def test_the_dynamic_type_has_256_levels():
    from distortion_coders import dynamic_levels

    levels = dynamic_levels()
    assert len(set(levels)) == 256
    assert levels.max() == 1
    assert np.abs(levels[levels != 0]).min() == pytest.approx(0.55e-6)


def test_golomb_codes_of_positions():
    from distortion_coders import golomb_bits

    # Gaps 0, 3, 8 with parameter 1: unary 0, 1, 4 and a stop, and a low bit each.
    assert golomb_bits(np.array([0, 4, 13])) == (0 + 1 + 4) + 2 * 3
    even = np.arange(9, 10_000, 10)
    entropy = 10 * (0.1 * math.log2(10) + 0.9 * math.log2(10 / 9))
    assert golomb_bits(even) / len(even) == pytest.approx(entropy, abs=0.35)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Run the benchmark on a tiny vector of two tensors, without other packages."""
    folder = tmp_path_factory.mktemp("distortion")
    rng = np.random.default_rng(0)
    arrays = {
        f"1 {what}/{name}": rng.laplace(size=shape).astype(np.float32)
        for what in ("weights", "update")
        for name, shape in (("lora_A", (8, 40)), ("lora_B", (30, 8)))
    }
    np.savez(folder / "tiny.npz", **arrays)
    page = folder / "page.md"
    page.write_text(
        "before\n<!-- codec_distortion.py -->\nreplaced\n"
        "<!-- end of codec_distortion.py -->\nafter\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import codec_distortion

        arguments = ["--vectors", folder / "tiny.npz", "--others", sys.executable]
        arguments += ["--into", folder, "--docs", page]
        patch.setattr(sys, "argv", ["codec_distortion.py", *map(str, arguments)])
        codec_distortion.main()
    return folder


def test_a_reference_needs_its_own_bytes_at_its_own_error(compared):
    rows = rows_of(compared / "codec-distortion.csv")
    assert {row["vector"] for row in rows} == {
        "tiny round 1 weights",
        "tiny round 1 update",
    }
    checked = 0
    for row in rows:
        own = row.get(row["reference"])
        if own:
            # Less only where another density beats the reference's.
            assert float(own) <= float(row["bytes"]) + 0.5
            checked += 1
        formats = [
            float(row[name]) for name in ("int4", "int8", "bfloat16") if row[name]
        ]
        if row["today"]:
            assert float(row["today"]) <= min(formats)
    assert checked


def test_all_coders_without_packages_of_their_own_are_measured(compared):
    coders = {"int4", "int8", "bfloat16", "ternary", "eden", "eden-unbiased", "nf4"}
    points = rows_of(compared / "codec-distortion-curves.csv")
    assert coders <= {row["coder"] for row in points}
    rows = rows_of(compared / "codec-distortion.csv")
    for name in (*coders, "blockwise8"):
        assert any(row[name] for row in rows), name


def test_the_tables_of_a_page_are_replaced(compared):
    page = (compared / "page.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "replaced" not in page
    assert "| tiny, server vector | 1/4 |" in page
    from distortion_tables import insert

    (compared / "other.md").write_text("no marks")
    with pytest.raises(ValueError, match="must contain"):
        insert(compared / "other.md", "text")


def test_the_columns_are_those_of_the_committed_results(compared):
    for name in ("codec-distortion.csv", "codec-distortion-curves.csv"):
        made, kept = (rows_of(folder / name) for folder in (compared, RESULTS))
        assert list(made[0]) == list(kept[0])


def test_the_tables_of_the_docs_come_from_the_committed_results():
    from distortion_tables import FIRST, LAST, tables

    text = tables(rows_of(RESULTS / "codec-distortion.csv"))
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert f"{FIRST}\n{text}\n{LAST}" in page

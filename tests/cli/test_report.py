"""The page: complete, and without anything to load."""

import json
import tomllib
from html.parser import HTMLParser

import numpy as np
import pytest
import tomli_w

from flasc_flwr.app.reporting.figures import curves, dots, save, stacks
from flasc_flwr.app.reporting.line_labels import spread
from flasc_flwr.app.reporting.run_figures import all_figures

FIGURES = [shown.name for shown in all_figures([])]


class Page(HTMLParser):
    """What a page refers to, its figures by id, its text, tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.references, self.figures, self.text, self.tags = [], {}, "", []
        self.attributes = set()
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.attributes |= set(attributes)
        self.references += [v for k, v in attributes.items() if k in ("src", "href")]
        if tag == "figure":
            self._open = attributes["id"]
            self.figures[self._open] = None
        if tag == "img":
            self.figures[self._open] = attributes["src"]

    def handle_data(self, data):
        self.text += data


def drawn(axes):
    """Return the curves, without the samples beside their labels."""
    return [line for line in axes.lines if line.get_transform() == axes.transData]


def report(call, tmp_path, *folders):
    out = tmp_path / "page.html"
    result = call("report", *folders, "--out", out, "--target", "0.2")
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    return Page(out.read_text())


def test_the_page_has_all_and_loads_nothing(call, tmp_path, runs):
    page = report(call, tmp_path, *runs.values())
    assert all(ref.startswith(("data:", "#")) for ref in page.references)
    assert "script" not in page.tags
    text = (tmp_path / "page.html").read_text()
    assert "url(" not in text and "@import" not in text
    assert list(page.figures) == FIGURES and len(FIGURES) == 8
    for name, source in page.figures.items():
        assert source.startswith("data:image/svg+xml;base64,"), name
        for suffix in ("svg", "png"):
            file = tmp_path / "page-figures" / f"{name}.{suffix}"
            assert file.stat().st_size > 1000
    for folder in runs.values():
        assert str(folder) in page.text
    for words in ("3 runs (3 finished) in\n2 groups", "MB to 20 %", "bfloat16"):
        assert words in page.text


def test_runs_that_did_not_finish_are_listed(call, tmp_path, runs, unfinished, failed):
    page = report(call, tmp_path, *runs.values())
    assert "1 failed, 1 finished, 1 unfinished" in page.text
    assert f"{unfinished.name}: unfinished: 2 of 3 rounds" in page.text
    assert f"{failed.name}: failed: the <disk> is full" in page.text
    assert "<disk>" not in (tmp_path / "page.html").read_text()


def test_figures_that_no_run_has_recorded_say_so(call, tmp_path, failed):
    page = report(call, tmp_path, failed)
    assert set(page.figures.values()) == {None}
    assert page.text.count("No run has recorded this.") == len(FIGURES)


def test_the_page_goes_beside_the_run(call, runs):
    assert call("report", runs["flasc-0"]).exit_code == 0
    assert (runs["flasc-0"] / "report.html").is_file()
    result = call("report", runs["flasc-0"], "--out", "page.txt")
    assert result.exit_code == 1
    assert "must end in .html, got 'page.txt'" in result.stderr


HOSTILE = """'"><img src=x onerror=alert(1)><script>alert(2)</script></style>$\\a"""


def test_nothing_in_a_run_becomes_html(call, tmp_path, runs):
    """Neither names of folders and settings nor reasons."""
    name = "'\"><script>alert(3)<" + "script>"
    folder = runs["dense-0"].rename(runs["dense-0"].with_name(name))
    config = tomllib.loads((folder / "config.toml").read_text())
    task = {"task": "causal-lm"}
    config |= {**task, "model": HOSTILE, "dataset": HOSTILE, "partitioner": "iid"}
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    ended = json.dumps({"ended": f"failed: {HOSTILE}"})
    (folder / "summary.json").write_text(ended)
    traffic, tensors = (folder / n for n in ("traffic.json", "tensors.json"))
    traffic.write_text(traffic.read_text().replace('"0"', json.dumps(HOSTILE)))
    content = json.loads(tensors.read_text())
    content["tensors"][0]["name"] = HOSTILE
    tensors.write_text(json.dumps(content))
    clean = report(call, tmp_path, runs["flasc-0"])
    page = report(call, tmp_path, runs["flasc-0"], folder)
    assert set(page.tags) - set(clean.tags) <= {
        *("details", "summary", "ul", "li", "strong")
    }
    assert page.attributes == clean.attributes
    assert all(ref.startswith("data:") for ref in page.references)
    assert page.text.count(HOSTILE) == 4 and name in page.text


def test_labels_stand_at_the_ends_of_their_curves():
    ends = {"low": 0.1, "high": 0.9, "$middle$": 0.5, "_near": 0.52}
    series = {name: [([0, 1], [0.0, y])] for name, y in ends.items()}
    (axes,) = curves(series, x_label="x", y_label="y").axes
    texts = [text for text in axes.texts if text.get_text()]
    heights = {text.get_text().replace("\\$", "$"): text.xy[1] for text in texts}
    assert sorted(heights, key=heights.get) == sorted(ends, key=ends.get)
    assert all(text.xy[0] > 1 for text in texts)
    limits = axes.get_ylim()
    for name in ("low", "high"):
        end = (ends[name] - limits[0]) / (limits[1] - limits[0])
        assert heights[name] == pytest.approx(end, abs=1e-6)
    assert heights["_near"] - heights["$middle$"] > 0.05


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_labels_keep_their_distance_and_their_order(count):
    wanted = np.random.default_rng(0).uniform(-0.2, 1.2, count)
    places = spread(wanted, gap=0.1)
    assert np.array_equal(np.argsort(places), np.argsort(wanted))
    assert np.all(np.diff(np.sort(places)) >= min(0.1, 1 / max(count - 1, 1)) - 1e-9)
    assert np.all((places >= -1e-9) & (places <= 1 + 1e-9))


def test_labels_with_room_stay_where_they_are():
    assert spread([0.9, 0.1, 0.5], gap=0.1) == pytest.approx([0.9, 0.1, 0.5])


def test_a_band_is_over_what_all_seeds_have():
    """Seeds whose x differ are compared where all of them are."""
    series = {"a": [([0, 10, 20], [0, 1, 2]), ([5, 15], [0.5, 2.5])]}
    (axes,) = curves(series, x_label="x", y_label="y").axes
    (line,) = drawn(axes)
    assert line.get_xdata().tolist() == [5, 10, 15]
    assert line.get_ydata().tolist() == [0.5, 1.25, 2.0]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[corners[:, 0] == 15][:, 1].max() == 2.5
    assert corners[corners[:, 0] == 15][:, 1].min() == 1.5


def test_a_log_axis_leaves_out_what_it_cannot_show():
    series = {"a": [([0, 1, 100], [0.1, 0.2, 0.3])], "empty": []}
    figure = curves(series, x_label="MB", y_label="y", log_x=True, y_percent=True)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [line.get_xdata().tolist() for line in drawn(axes)] == [[1, 100]]


@pytest.mark.parametrize("ends", [[0.63, 0.79], [0.1, 0.9], [0.704, 0.713]])
def test_ticks_in_per_cent_say_where_they_are(ends):
    """A range of 16 points has ticks at 62.5 and 67.5 %, which are not 63 and 68."""
    series = {"a": [([1, 2], ends)]}
    figure = curves(series, x_label="MB", y_label="y", y_percent=True)
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    for value, label in zip(
        axis.get_majorticklocs(), axis.get_ticklabels(), strict=True
    ):
        assert float(label.get_text().rstrip("%")) == pytest.approx(100 * value)


def test_a_label_keeps_its_colour_where_another_has_nothing():
    both = {"a": [([0, 1], [0, 1])], "b": [([0, 1], [1, 1])]}
    one = both | {"a": []}
    colours = [
        drawn(curves(s, x_label="x", y_label="y").axes[0])[-1].get_color()
        for s in (both, one)
    ]
    assert colours[0] == colours[1]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves({"a": [([0, 1], [0, 1])]}, x_label="x", y_label="y"),
        lambda: dots({"a": {"t": 0.5}, "b": {}}, x_label="kept", x_percent=True),
        lambda: stacks({"a": {"p": 1.0, "q": 2.0}}, x_label="s"),
    ],
)
def test_the_same_figure_is_the_same_file(tmp_path, draw):
    files = [save(draw(), tmp_path / name)[0].read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_traffic_and_tensors_of_a_run_add_up(made):
    """The figures show what the summary counts."""
    folder = made["flasc-0"]
    summary = json.loads((folder / "summary.json").read_text())
    traffic = json.loads((folder / "traffic.json").read_text())
    assert traffic["columns"] == ["round", "client", "direction", "payload", "message"]
    for way in ("down", "up"):
        rows = [row for row in traffic["rows"] if row[2] == way]
        assert sum(row[3] for row in rows) == summary[f"payload_bytes_{way}"]
        assert sum(row[4] for row in rows) == summary[f"message_bytes_{way}"]
    # Introductions, too, are counted under the names.
    assert {row[1] for row in traffic["rows"]} == {"0", "1", "2"}
    tensors = json.loads((folder / "tensors.json").read_text())
    entries = np.array([t["entries"] for t in tensors["tensors"]])
    assert entries.sum() == summary["adapter_parameters"]
    for way in ("down", "up"):
        kept = np.array([t[f"kept_{way}"] for t in tensors["tensors"]])
        assert kept @ entries / entries.sum() == pytest.approx(0.25, abs=0.001)
        assert 0 < tensors["bits_per_parameter"][way] < 16


def test_the_phases_are_parts_of_a_round(made):
    rows = [
        json.loads(line)
        for line in (made["flasc-0"] / "history.jsonl").read_text().splitlines()
    ]
    for row in rows[1:]:
        parts = [row[f"seconds_{p}"] for p in ("select", "clients", "aggregate")]
        assert row["seconds_clients"] > 0 and row["seconds_evaluate"] > 0
        assert sum(parts) + row["seconds_evaluate"] <= row["seconds"] + 0.01

"""Runs side by side."""

import json
import re

import pytest

from flasc_flwr.app.cli.compare import show
from flasc_flwr.app.reporting.cells import cells
from flasc_flwr.app.reporting.comparison import compare
from flasc_flwr.app.reporting.groups import group, in_words
from flasc_flwr.app.reporting.run_figures import all_figures
from flasc_flwr.app.reporting.runs import find_runs, read_run


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def rows_of(folders, target=None):
    return compare(group([read_run(folder) for folder in folders]), target)


def test_seeds_are_grouped_and_methods_are_not(runs):
    flasc, dense = rows_of(runs.values())
    assert (flasc["label"], dense["label"]) == ("flasc", "dense")
    assert (flasc["seeds"], dense["seeds"]) == ([0, 1], [0])
    summaries = [summary(runs[name]) for name in ("flasc-0", "flasc-1")]
    accuracies = [s["accuracy"] for s in summaries]
    assert flasc["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert flasc["accuracy_max"] == max(accuracies)
    for way in ("down", "up"):
        total = sum(s[f"message_bytes_{way}"] for s in summaries)
        assert flasc[f"megabytes_{way}"] == pytest.approx(total / 2e6)
    assert dense["times_less_than_dense"] == pytest.approx(
        summary(runs["dense-0"])["reduction_vs_dense_float32"]
    )
    assert flasc["clients"] == dense["clients"] == 3


def test_densities_and_values_are_those_in_effect(runs):
    flasc, dense = rows_of(runs.values())
    assert (flasc["download_density"], dense["download_density"]) == (0.25, 1.0)
    assert (flasc["value_format"], dense["value_format"]) == ("bfloat16", "float32")
    assert dense["differing"]["densities"] == (1.0, 1.0)
    assert "seed" not in dense["differing"]


def test_runs_that_prune_to_other_densities_are_not_one_group(runs):
    for name, density in (("flasc-0", "0.25"), ("flasc-1", "0.0625")):
        config = runs[name] / "config.toml"
        text = config.read_text()
        for key, old, new in (
            ("method", '"flasc"', '"adapter-lth"'),
            ("download-density", '"auto"', density),
            ("download-density-decay", '"auto"', "0.5"),
        ):
            assert f"\n{key} = {old}\n" in text
            text = text.replace(f"\n{key} = {old}\n", f"\n{key} = {new}\n")
        config.write_text(text)
    quarter, sixteenth = rows_of([runs["flasc-0"], runs["flasc-1"]])
    assert quarter["label"] == "adapter-lth down 1/4, up 1"
    assert sixteenth["label"] == "adapter-lth down 1/16, up 1"
    assert (quarter["seeds"], sixteenth["seeds"]) == ([0], [1])


def test_methods_without_lora_have_no_rank(runs):
    config = runs["dense-0"] / "config.toml"
    config.write_text(
        config.read_text().replace('\nmethod = "dense"\n', '\nmethod = "full"\n')
    )
    flasc, full = rows_of([runs["flasc-0"], runs["dense-0"]])
    assert (flasc["lora_rank"], full["lora_rank"]) == (2, None)
    assert (cells(flasc)["rank"], cells(full)["rank"]) == ("2", "-")


def test_the_rows_have_what_dense_float32_would_have_sent(runs):
    """The count during a run ends as the one in its summary."""
    run = read_run(runs["flasc-0"])
    assert run.total("dense_float32_bytes") == run.summary["dense_float32_bytes"]


def test_labels_have_what_differs_and_no_more(runs):
    config = runs["flasc-1"] / "config.toml"
    changed = config.read_text().replace(
        'upload-density = "auto"', "upload-density = 0.0625"
    )
    config.write_text(changed)
    labels = [row["label"] for row in rows_of(runs.values())]
    assert labels == ["flasc 1/4", "flasc down 1/4, up 1/16", "dense"]


def test_labels_and_columns_have_bytes_where_they_are_the_limit(runs):
    config = runs["flasc-1"] / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("upload-bytes = 0", "upload-bytes = 4000"))
    rows = rows_of(runs.values())
    labels = [row["label"] for row in rows]
    assert labels == ["flasc 1/4", "flasc down 1/4, up 4000 B", "dense"]
    assert [cells(row)["up"] for row in rows] == ["1/4", "4000 B", "1"]


def test_megabytes_to_a_target_are_counted_from_the_rows(runs):
    rows = [
        json.loads(line)
        for line in (runs["flasc-0"] / "history.jsonl").read_text().splitlines()
    ]
    target = max(row["accuracy"] for row in rows)
    first = next(i for i, row in enumerate(rows) if row["accuracy"] >= target)
    sent = sum(
        row["message_bytes_down"] + row["message_bytes_up"] for row in rows[: first + 1]
    )
    (row,) = rows_of([runs["flasc-0"]], target)
    assert row["megabytes_to_target"] == pytest.approx(sent / 1e6)
    (row,) = rows_of([runs["flasc-0"]], 1.0)
    assert (row["megabytes_to_target"], row["reached_target"]) == (None, 0)


def test_the_table_and_the_json(call, runs):
    folder = runs["flasc-0"].parent
    table = call("compare", folder, "--target", "1")
    assert table.exit_code == 0
    for text in ("flasc", "dense", "bfloat16", "0,1", "MB to 100 %", "not reached"):
        assert text in table.stdout
    rows = json.loads(call("compare", folder, "--json").stdout)
    assert [row["label"] for row in rows] == ["dense", "flasc"]


def test_a_target_is_shown_as_it_was_given(call, runs):
    """Rounded, 0.8125 would look like another target."""
    result = call("compare", runs["flasc-0"], "--target", "0.8125")
    assert "MB to 81.25 %" in result.stdout


def test_runs_that_did_not_finish_are_listed(call, runs, unfinished, failed):
    result = call("compare", *runs.values())
    assert f"{unfinished}: unfinished: 2 of 3 rounds" in result.stdout
    assert f"{failed}: failed: the <disk> is full" in result.stdout
    assert "flasc (unfinished)" in result.stdout and "dense (failed)" in result.stdout


def test_groups_that_look_alike_have_labels_of_their_own(runs):
    """Their curves are drawn by label: one would take the place of the other."""
    for name, density in (("flasc-0", "0.28571"), ("flasc-1", "0.285714")):
        config = runs[name] / "config.toml"
        text = config.read_text()
        wanted = f"upload-density = {density}"
        config.write_text(text.replace('upload-density = "auto"', wanted))
    found = group([read_run(runs[name]) for name in ("flasc-0", "flasc-1")])
    label = "flasc down 1/4, up 0.2857"
    assert [one.label for one in found] == [label, f"{label} #2"]


def test_runs_that_failed_early_and_late_are_both_drawn(runs):
    for name, rows in (("flasc-0", 4), ("flasc-1", 0)):
        folder = runs[name]
        (folder / "summary.json").write_text('{"ended": "failed: no battery"}')
        if not rows:  # its clients are not known
            (folder / "history.jsonl").unlink()
            (folder / "traffic.json").unlink()
    found = group([read_run(runs[name]) for name in ("flasc-0", "flasc-1")])
    (curve,) = [s for s in all_figures(found) if s.name == "accuracy-by-round"]
    assert curve.figure is not None


def test_a_folder_without_runs_is_named(call, tmp_path):
    result = call("compare", tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"'{tmp_path}' is not a run folder" in line


def test_a_damaged_run_is_named(call, runs):
    (runs["flasc-0"] / "config.toml").write_text("method = 'flask'")
    result = call("compare", runs["flasc-0"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(runs["flasc-0"]) in line and "method must be" in line


def test_a_folder_of_a_sweep_is_found_once(made):
    folders = list(made.values())
    into = folders[0].parents[1]
    assert sorted(find_runs([into, folders[0]])) == sorted(folders)


@pytest.mark.parametrize(
    ("density", "words"), [(1.0, "1"), (0.25, "1/4"), (0.0286, "0.0286"), (0.3, "0.3")]
)
def test_densities_are_written_as_people_write_them(density, words):
    assert in_words(density) == words


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("history.jsonl", "[]\n", "history.jsonl in .* is damaged: .* got a list"),
        ("history.jsonl", "{bad\n", "history.jsonl in .* is damaged: "),
        (
            "history.jsonl",
            '{"round": 1}\n',
            "history.jsonl in .*dense-0' is damaged: line 1 has no 'message_bytes_d",
        ),
        ("summary.json", "[1]", "summary.json in .* is damaged: .* got a list"),
        (
            "summary.json",
            '{"a": 1}',
            "summary.json in .* is damaged: it has no 'ended'",
        ),
        ("summary.json", '{"ended', "summary.json in .* is damaged: "),
        ("traffic.json", "[]", "traffic.json in .* is damaged: .* got a list"),
        ("traffic.json", '{"columns', "traffic.json in .* is damaged: "),
    ],
)
def test_a_damaged_file_is_named_in_one_line(call, runs, name, text, reason):
    (runs["dense-0"] / name).write_text(text)
    result = call("compare", runs["dense-0"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert re.search(reason, line)


def test_text_from_folders_neither_colours_nor_breaks_the_table(call, runs):
    folder = runs["dense-0"].rename(runs["dense-0"].with_name("a\x1b[31m[bold]b"))
    result = call("network", folder)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout and "[bold]b" in result.stdout


def test_a_label_neither_colours_nor_breaks_the_table(runs, capsys):
    rows = rows_of(runs.values())
    rows[0]["label"] = "model [/x]\x1b[31m"
    show(rows, ["a/run: failed: \x1b[31m"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "model [/x]" in shown

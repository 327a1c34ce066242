import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flasc_flwr.app.cli.network import network, read_links

app = typer.Typer()
app.command()(network)


@pytest.fixture
def run(tmp_path):
    """A run of two clients: 100 kB down and up, then as much to the second alone."""
    folder = tmp_path / "a-run"
    folder.mkdir()
    sent = {"message_bytes_down": 200_000, "message_bytes_up": 200_000, "replies": 2}
    rows = [
        {"round": 1, "accuracy": 0.7, **sent},
        {"round": 2, "accuracy": None, **sent},
        {"round": 3, "accuracy": 0.6, **sent},
        {"round": 4, "accuracy": 0.8, **sent},
    ]
    (folder / "config.toml").write_text("")
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    traffic = [
        [round, client, way, 90_000, 100_000]
        for round in (1, 2, 3, 4)
        for client in "01"
        for way in ("down", "up")
    ]
    columns = ["round", "client", "direction", "payload", "message"]
    (folder / "traffic.json").write_text(
        json.dumps({"columns": columns, "rows": traffic})
    )
    return folder


def invoked(*arguments):
    return CliRunner().invoke(app, [str(word) for word in arguments])


def test_a_table_for_people(run):
    result = invoked(
        run, "--down", 8, "--up-slower", "1,4", "--latency", 0, "--target", 0.7
    )
    assert result.exit_code == 0
    lines = [
        line.split("│")[1:-1] for line in result.output.splitlines() if "Mbit" in line
    ]
    # 100 kB take 0.104 s at 8 Mbit/s, with their headers, 0.416 s at 2.
    assert [[cell.strip() for cell in line[1:]] for line in lines] == [
        ["8 / 8 Mbit/s", "4", "1.60", "0.8", "0.2", "0.8"],
        ["8 / 2 Mbit/s", "4", "1.60", "2.1", "0.5", "2.1"],
    ]


@pytest.mark.parametrize(
    ("target", "shown"), [(0.7, "70 %"), (0.8125, "81.25 %"), (0.57, "57 %")]
)
def test_a_target_is_shown_as_it_was_given(run, target, shown):
    output = invoked(run, "--target", target).output
    assert f"first {shown} " in output and f"stays at {shown} " in output


def test_json_for_programs(run):
    result = invoked(run, "--up-slower", 1, "--down", 8, "--compute", 1, "--json")
    (first,) = json.loads(result.output)
    # 0.104 s and 0.05 s of latency either way, and the second of computing.
    seconds = first["by_round"]["seconds"]
    assert seconds == pytest.approx([1.308, 2.616, 3.924, 5.232])
    assert first["by_round"]["accuracy"] == [0.7, None, 0.6, 0.8]
    assert "first" not in first


def test_several_runs_keep_their_order(run, tmp_path):
    shutil.copytree(run, tmp_path / "another")
    found = json.loads(invoked(tmp_path, "--json").output)
    names = [(result["run"], result["links"]) for result in found]
    assert names == [
        (str(tmp_path / name), f"10 / {up} Mbit/s")
        for name in ("a-run", "another")
        for up in ("10", "2.5", "0.625")
    ]


def test_unequal_links_from_a_file(run, tmp_path):
    links = tmp_path / "links.toml"
    one, two = (
        "[[link]]\ndownload = 8\nupload = 8\n",
        "[[link]]\ndownload = 8\nupload = 1\n",
    )
    links.write_text(one + two)
    tiers = json.loads(invoked(run, "--links", links, "--json").output)
    assert [result["links"] for result in tiers] == ["links.toml"]
    # Client 1 is of the second tier: 0.104 s down, 0.832 s up.
    assert tiers[0]["seconds"] == pytest.approx(4 * 0.936)
    links.write_text(f"{one}share = 1e9\n{two}share = 1e-9\n")
    drawn = json.loads(invoked(run, "--links", links, "--json").output)
    assert drawn[0]["seconds"] == pytest.approx(4 * 0.208)


def test_the_links_of_the_documentation_can_be_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    (tmp_path / "links.toml").write_text(page.split("```toml")[1].split("```")[0])
    link_of = read_links(tmp_path / "links.toml", seed=0)
    drawn = Counter(link_of(str(client)).download for client in range(1000))
    assert drawn.keys() == {5, 50} and drawn[5] > 2 * drawn[50]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no tables [[link]]"),
        ("link = 3", "has no tables [[link]]"),
        ("link = []", "has no tables [[link]]"),
        ("[[link]]\ndownload = 8\n", "a link has no 'upload'"),
        ("[[link]]\nspeed = 8\n", "download, latency, share, upload, got 'speed'"),
        ("[[link]]\ndownload = 8\nupload = 0\n", "upload must be"),
        (
            "[[link]]\ndownload = 8\nupload = 8\nshare = 1\n"
            "[[link]]\ndownload = 8\nupload = 8\n",
            "got 1 of 2",
        ),
        *(
            (
                f"[[link]]\ndownload = 8\nupload = {word}\n",
                "upload must be a number ",
            )
            for word in ("nan", "inf", "-1", "1e308", "1e-308", "true", "'8'")
        ),
        (
            "[[link]]\ndownload = 8\nupload = 8\nshare = 1e308\n",
            "share must be a number in (0, 1e12], got 1e+308",
        ),
        ("[[link", "links.toml"),
    ],
)
def test_wrong_links_are_refused(run, tmp_path, content, message):
    links = tmp_path / "links.toml"
    links.write_text(content)
    result = invoked(run, "--links", links)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--up-slower", "1;4"], 1, "up-slower must be numbers"),
        *(
            (["--up-slower", f"1,{word}"], 1, "up-slower must be a number in [1e-6, 1")
            for word in ("0", "nan", "inf", "-1", "1e308")
        ),
        (["--down", "0"], 2, "must be a number in [1e-6, 1e6], got '0'"),
        (["--target", "70"], 2, "must be a number in [0, 1], got '70'"),
        (["--links", "nowhere.toml"], 1, "nowhere.toml"),
    ],
)
def test_wrong_options_are_refused(run, arguments, status, message):
    result = invoked(run, *arguments)
    assert result.exit_code == status
    assert message in " ".join(result.output.split())


def test_a_run_without_traffic_needs_to_be_asked_for(run, tmp_path):
    (run / "traffic.json").unlink()
    assert "--even-split" in invoked(run).output
    split = invoked(run, "--even-split", "--down", 8, "--up-slower", 1, "--latency", 0)
    assert split.exit_code == 0 and "0.8" in split.output
    both = invoked(run, "--even-split", "--links", tmp_path / "none.toml")
    assert both.exit_code == 1

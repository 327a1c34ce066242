"""The short runs of a search: how they are set, read, and what is left behind."""

import json
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flasc_flwr.app.cli.search import search
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.runs import jobs
from flasc_flwr.app.search import probes as module
from flasc_flwr.app.search.candidates import Candidate, Limits, Result
from flasc_flwr.app.search.probes import Probes, configured, result_of, search_into
from flasc_flwr.app.search.search import SearchError
from tests.app import in_process

APP = Path(__file__).parents[2]
LIMITS = Limits(max_rank=4, megabytes=0.02)
app = typer.Typer()
app.command()(search)


def row(number, accuracy, down, up, replies):
    return {
        "round": number,
        "accuracy": accuracy,
        "message_bytes_down": down,
        "message_bytes_up": up,
        "replies": replies,
    }


HISTORY = [
    row(0, 0.1, 30_000, 10_000, 0),
    row(1, 0.5, 100_000, 60_000, 2),
    row(2, None, 100_000, 100_000, 1),
    row(3, 0.8, 100_000, 100_000, 2),
    row(4, 0.9, 100_000, 100_000, 2),
]


def probes(tmp_path, **settings):
    given = {"clients": 3, "megabytes": 1.0, "into": tmp_path, "app": APP}
    return Probes(**{"base": {}} | given | settings)


@pytest.fixture
def made(monkeypatch):
    """Write histories in place of runs; the rank is worth more than the density."""
    jobs_made = {}

    def run_jobs(jobs, into, *, app, at_once, on_end):
        for name, job in jobs.items():
            if name in jobs_made and (into / name).exists():
                continue
            jobs_made[name] = job
            rank, density = job.settings["lora-rank"], job.settings["upload-density"]
            sent = round(5000 * rank * density)
            rows = [row(0, 0.1, 10, 10, 0), row(1, 0.1 * rank + density, sent, sent, 1)]
            (into / name).mkdir(parents=True)
            text = "".join(json.dumps(r) + "\n" for r in rows)
            (into / name / "history.jsonl").write_text(text)
        return {name: into / name for name in jobs}

    monkeypatch.setattr(module, "run_jobs", run_jobs)
    return jobs_made


def test_accuracy_is_that_within_the_bytes_and_cost_that_of_the_dearest_round():
    # 40, 200, 400, 600 and 800 kB were sent after the rounds.
    assert result_of(HISTORY, 0.2) == Result(0.5, 0.2)
    assert result_of(HISTORY, 0.599) == Result(0.5, 0.2)
    assert result_of(HISTORY, 0.6) == Result(0.8, 0.2)
    assert result_of(HISTORY, 9.0) == Result(0.9, 0.2)
    with pytest.raises(SearchError, match=r"must be .*\(0.2 MB\), got 0.1"):
        result_of(HISTORY, 0.1)


def test_a_configuration_keeps_the_scale_and_the_other_settings():
    base = {"lora-rank": 8, "lora-alpha": 4.0, "seed": 3, "resume": "latest"}
    settings = configured(base, Candidate(2, 0.25))
    assert settings == {
        "lora-rank": 2,
        "lora-alpha": 1.0,
        "seed": 3,
        "download-density": 0.25,
        "upload-density": 0.25,
    }


def test_probes_end_by_their_bytes_alone(tmp_path, made):
    base = {
        "stop-accuracy": 0.5,
        "stop-patience": 3,
        "num-server-rounds": 2,
        "evaluate-every": 7,
        "output-dir": "/elsewhere",
        "trackers": "wandb",
        "local-epochs": 1,
    }
    results = probes(tmp_path, base=base)([Candidate(2, 0.5)], [4, 5])
    assert results == {Candidate(2, 0.5): [Result(0.7, 0.01)] * 2}
    assert list(made) == ["r2-d0.5-s4", "r2-d0.5-s5"]
    job = made["r2-d0.5-s5"]
    assert job.clients == 3
    assert job.settings == {
        "local-epochs": 1,
        "lora-rank": 2,
        "lora-alpha": 2.0,
        "download-density": 0.5,
        "upload-density": 0.5,
        "seed": 5,
        "num-server-rounds": 1_000_000,
        "evaluate-every": 1,
        "export-every": 0,
        "stop-megabytes": 1.0,
    }


def test_a_search_leaves_a_profile_that_runs_and_all_its_steps(tmp_path, made):
    base = {"stop-accuracy": 0.9, "num-server-rounds": 7}
    arguments = {"start": Candidate(1, 0.25), "limits": LIMITS, "seeds": [0, 1]}
    steps = search_into(tmp_path, probes(tmp_path, base=base), **arguments)
    # Rank 1 -> 2 is worth 0.1, density 1/4 -> 1/2 is worth 0.25, 1/2 -> 1 is worth 0.5;
    # then the rank is left, and 4 x 1 costs 0.04 MB.
    assert [s.chosen for s in steps] == ["start", "density", "density", "rank", None]
    profile = tomllib.loads((tmp_path / "best.toml").read_text())
    config = RunConfig.parse(profile)
    assert (config.lora_rank, config.lora_alpha) == (2, 2.0)
    assert config.download_density == config.upload_density == 1.0
    assert (config.stop.accuracy, config.num_server_rounds) == (0.9, 7)
    saved = json.loads((tmp_path / "search.json").read_text())
    assert saved["best"] == {"rank": 2, "density": 1.0}
    assert saved["most_accurate"]["candidate"] == saved["best"]
    assert [step["chosen"] for step in saved["steps"]] == [s.chosen for s in steps]
    assert "costs 0.04 MB" in saved["ended"] and "of 0.02 MB" in saved["ended"]

    before = len(made)
    again = search_into(tmp_path, probes(tmp_path, base=base), **arguments)
    assert (again, len(made)) == (steps, before)
    # More budget: it goes on from where it was.
    arguments["limits"] = Limits(max_rank=4, megabytes=0.04)
    further = search_into(tmp_path, probes(tmp_path, base=base), **arguments)
    assert further[-1].next == Candidate(4, 1.0)
    assert len(made) == before


def test_a_search_that_breaks_off_has_left_the_best_so_far(tmp_path, made):
    class Break(Exception):
        pass

    def stop(step):
        if step.chosen == "density":
            raise Break

    arguments = {"start": Candidate(1, 0.25), "limits": LIMITS, "seeds": [0]}
    with pytest.raises(Break):
        search_into(tmp_path, probes(tmp_path), on_step=stop, **arguments)
    saved = json.loads((tmp_path / "search.json").read_text())
    assert (saved["best"], saved["ended"]) == ({"rank": 1, "density": 0.5}, None)
    assert tomllib.loads((tmp_path / "best.toml").read_text())["lora-rank"] == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"megabytes": 0}, ValueError, "probe-megabytes must be .*, got 0"),
        ({"clients": 0}, ValueError, "clients must be .*, got 0"),
        ({"at_once": 0}, ValueError, "at-once must be .*, got 0"),
        ({"base": {"method": "flask"}}, ConfigError, "method must be .*, got 'flask'"),
        ({"base": {"method": "dense"}}, ValueError, "method must be .*, got 'dense'"),
        ({"base": {"upload-bytes": 9000}}, ValueError, "must be 0, .* got 0 and 9000"),
        (
            {"base": {"method": "flasc-tiers"}},
            ValueError,
            "method must .* the same budget .*, got 'flasc-tiers'",
        ),
        ({"base": {"adapter": "/a"}}, ValueError, "adapter must be .*, got '/a'"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        probes(tmp_path, **change)


def invoked(tmp_path, *arguments):
    words = ["--into", tmp_path, "--per-round-megabytes", "0.02", "--probe-megabytes"]
    words += ["1", "--start-rank", "1", "--start-density", "1/4", "--max-rank", "4"]
    return CliRunner().invoke(app, [str(word) for word in [*words, *arguments]])


def test_the_command_searches_and_shows_each_step(tmp_path, made):
    result = invoked(tmp_path, "--run-config", "local-epochs=1", "--seeds", "0,1")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "start: rank 1, density 0.25"
    assert lines[2] == "rank 1, density 0.25: raise density: rank 1, density 0.5"
    assert lines[3].startswith("  rank 2, density 0.25 has accuracy 0.4500, rank 1, ")
    assert lines[-1].startswith("Best within the budget: rank 2, density 1: ")
    profile = tomllib.loads((tmp_path / "best.toml").read_text())
    assert profile["local-epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0;1"], "seeds must be integers"),
        (["--seeds", "0,0"], "seeds must be one or more distinct numbers, got [0, 0]"),
        (["--start-density", "2"], "start-density must be a number in (0,"),
        (["--start-density", "thin"], "start-density must be"),
        (["--start-rank", "5"], "max-rank 4, got 5"),
        (["--per-round-megabytes", "0.001"], "above the budget of 0.001 MB"),
        (["--probe-megabytes", "0.001"], "probe-megabytes must be"),
        (["--run-config", "lora-rnak=2"], "did you mean lora-rank"),
    ],
)
def test_the_command_refuses_wrong_options(tmp_path, made, arguments, message):
    result = invoked(tmp_path, *arguments)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("option", ["--start-rank", "--per-round-megabytes"])
def test_the_command_refuses_numbers_out_of_range(tmp_path, made, option):
    result = invoked(tmp_path, option, "0")
    assert result.exit_code == 2
    assert f"'{option}': must be a" in " ".join(result.output.split())


@pytest.mark.slow
def test_a_search_on_the_digits(tmp_path, monkeypatch):
    """Real runs: three and what the budget refuses."""
    monkeypatch.setattr(jobs, "_start", in_process.start)
    base = {"local-epochs": 1, "fraction-train": 1.0}
    made = []
    real = probes(
        tmp_path,
        base=base,
        clients=2,
        megabytes=0.06,
        on_end=lambda name, folder: made.append(folder),
    )
    arguments = {
        "start": Candidate(1, 0.5),
        "limits": Limits(max_rank=2, megabytes=0.009),
        "seeds": [0],
    }
    steps = search_into(tmp_path, real, **arguments)
    outcomes = [o for step in steps for o in step.outcomes.values()]
    assert len(made) == len(outcomes) >= 3
    for folder in made:
        summary = json.loads((folder / "summary.json").read_text())
        assert "MB sent, of 0.06 MB" in summary["ended"]
    # What is chosen fits, and what fits not is never chosen.
    assert all(0 < s.outcomes[s.chosen].megabytes <= 0.009 for s in steps[:-1])
    assert all(o.megabytes > 0.009 for o in steps[-1].outcomes.values())
    assert all(o.accuracy > 0.1 for o in outcomes)
    best = RunConfig.parse(tomllib.loads((tmp_path / "best.toml").read_text()))
    assert best.lora_rank == steps[-1].next.rank

    ready = len(made)
    assert search_into(tmp_path, real, **arguments) == steps
    assert len(made) == ready

"""Run folders: names that no two runs share, and how a run is said to have ended."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

import client_app
from flasc_flwr.app.config import ConfigError, RunConfig
from flasc_flwr.app.reporting import RunFolder, run_folder
from flasc_flwr.app.reporting.page import write_report
from flasc_flwr.app.reporting.runs import read_run
from flasc_flwr.app.reporting.summary import how_it_ended, nothing_trained
from flasc_flwr.core.layout import Layout
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.optimizers import OptimizerState
from flasc_flwr.flower.local_grid import LocalGrid
from flasc_flwr.flower.state.run_state import RunState
from tests.app.test_apps import run

PRIVATE = {"dp-clip-norm": 1.0, "dp-noise-multiplier": 1.0, "dp-population": 4}


def test_two_runs_in_the_same_second_have_their_own_folders(tmp_path, monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls, zone):
            return cls(2031, 2, 3, 4, 5, 6, tzinfo=UTC)

    monkeypatch.setattr(run_folder, "datetime", Now)
    config = RunConfig(output_dir=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: RunFolder.create(config, run_id=7), range(12))
    paths = {folder.path for folder in made}
    assert len(paths) == 12
    names = sorted(path.name for path in paths)
    assert names[:2] == [
        "20310203-040506-flasc-seed0-02-7",
        "20310203-040506-flasc-seed0-03-7",
    ]
    assert names[-1] == "20310203-040506-flasc-seed0-7"
    # The command line finds a run's folder by the id at the end of its name.
    assert {path for path in tmp_path.glob("*-7")} == paths
    assert all((path / "config.toml").is_file() for path in paths)


def row(round, *reasons, skipped=False, replies=2):
    failures = [{"client": "1", "node": 1, "reason": reason} for reason in reasons]
    return {
        "round": round,
        "skipped": skipped,
        "replies": 0 if skipped else replies,
        "failures": failures,
    }


@pytest.mark.parametrize(
    ("history", "ended"),
    [
        ([row(0), row(1), row(2)], "done"),
        ([row(0), row(1, "late", skipped=True), row(2, "late")], "done"),
        (
            [row(0), row(1, "old", "old", "old"), row(2, "late", skipped=True)],
            "done; the last round was skipped: late",
        ),
        (
            [
                row(0),
                row(1),
                row(2, "late", skipped=True),
                row(3, "odd", "late", skipped=True),
            ],
            "done; the last 2 rounds were skipped: late",
        ),
        (
            [row(0), row(1), row(2, skipped=True)],
            "done; the last round was skipped: too few replies",
        ),
        (
            [row(0), row(1), row(2, skipped=True) | {"skip_reason": "not finite"}],
            "done; the last round was skipped: not finite",
        ),
        ([], "done"),
    ],
)
def test_a_run_whose_last_rounds_were_skipped_says_so(history, ended):
    assert how_it_ended("done", history) == ended


def test_a_private_run_of_noise_only_has_trained_nothing():
    """An empty Poisson sample is a release, and its round is not skipped."""
    noise = row(1, replies=0)
    assert "no round had enough" in nothing_trained(
        [row(0, replies=0), noise, row(2, "late", skipped=True)]
    )
    assert nothing_trained([row(0, replies=0), noise, row(2)]) is None


def test_a_summary_counts_a_release_whose_round_has_no_row(tmp_path):
    """The last row has another epsilon than the run, if a later round failed."""
    state = RunState(Layout(()), None, OptimizerState(0, {}))
    state.privacy["spent"] = {"epsilon": 2.5, "delta": 0.1}
    counts = {"message_bytes_down": 0, "message_bytes_up": 0, "seconds": 1.0}
    last = row(1) | counts | {"accuracy": None, "epsilon": 2.0, "delta": 0.1}
    state.history.append(last)
    config = RunConfig(output_dir=str(tmp_path))
    folder = RunFolder.create(config, run_id=1)
    with pytest.raises(OSError, match="gone"), folder:
        folder.add_row(last, state)
        raise OSError("gone")
    summary = json.loads((folder.path / "summary.json").read_text())
    assert (summary["epsilon"], summary["delta"]) == (2.5, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "flora"}, "aggregation must not be 'stacking'"),
        ({"method": "fedex-lora"}, "exact-residual must be False"),
        ({"exact-residual": True}, "exact-residual must be False"),
        ({"method": "hetlora"}, "tiers must be 'none' or 'density', .* got 'rank'"),
        ({"method": "flexlora"}, "tiers must be 'none' or 'density', .* got 'rank'"),
        ({"tiers": "rank"}, "tiers must be 'none' or 'density', .* got 'rank'"),
        ({"method": "replication"}, "rank-assignment must be 'own', .*'validation'"),
        ({"fraction-evaluate": 0.5}, "fraction-evaluate must be 0, .*, got 0.5"),
    ],
)
def test_local_privacy_that_cannot_be_honest_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"with local differential.*{message}"):
        RunConfig.parse({"local-dp-epsilon": 0.5, **settings})


@pytest.mark.parametrize(
    "settings", [{"method": "dense"}, {"tiers": "density"}, {"method": "rolora"}]
)
def test_local_privacy_of_other_methods_is_not(settings):
    RunConfig.parse({"local-dp-epsilon": 0.5, **settings})


def test_every_method_is_either_refused_or_sends_one_adapter():
    for name, method in METHODS.items():
        merges = method.aggregation == "stacking" or method.exact_residual
        unequal = method.tiers == "rank" or method.rank_assignment != "own"
        remembers = method.error_feedback != "none"
        try:
            RunConfig.parse({"local-dp-epsilon": 0.5, "method": name})
        except ConfigError:
            assert merges or unequal or remembers, name
        else:
            assert not (merges or unequal or remembers), name


def test_central_privacy_is_refused_before_a_run_begins():
    poisson = {**PRIVATE, "dp-sampling": "poisson", "min-replies": 2}
    for settings, message in (
        (poisson, "min-replies must be 1 with dp-sampling 'poisson', .*, got 2"),
        ({**PRIVATE, "method": "hetlora"}, "aggregation must be 'zero-padded"),
        ({**PRIVATE, "oversample": 1.5}, "oversample must be 1"),
    ):
        with pytest.raises(ConfigError, match=f"with differential privacy.*{message}"):
            RunConfig.parse(settings)
    RunConfig.parse({**PRIVATE, "min-replies": 2})
    RunConfig.parse({**poisson, "min-replies": 1})


def failing_from(round):
    """Return the app, whose clients fail from a round on."""

    def app(message, context):
        config = message.content.config_records.get("config", {})
        if config.get("server-round", 0) >= round:
            raise OSError("the battery is empty")
        return client_app.app(message, context)

    config = RunConfig(lora_rank=4, local_epochs=1).to_dict()
    return LocalGrid(app, 4, run_config=config)


def test_a_run_that_stood_still_at_its_end_says_so(tmp_path):
    result = run(tmp_path, failing_from(2), num_server_rounds=4)
    assert result.summary["ended"] == (
        "all rounds done; the last 3 rounds were skipped: the battery is empty"
    )
    assert result.summary["skipped_rounds"] == 3


def test_a_private_run_in_which_nothing_trained_fails(tmp_path):
    private = {key.replace("-", "_"): value for key, value in PRIVATE.items()}
    with pytest.raises(RuntimeError, match="the same reason: the battery is empty"):
        run(tmp_path, failing_from(1), **private)


def test_a_private_run_leaves_its_releases_and_no_density_of_uploads(tmp_path):
    private = {key.replace("-", "_"): value for key, value in PRIVATE.items()}
    result = run(tmp_path / "private", **private)
    lines = (result.folder / "releases.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    tensors = json.loads((result.folder / "tensors.json").read_text())
    assert {tensor["kept_up"] for tensor in tensors["tensors"]} == {None}
    assert tensors["bits_per_parameter"]["up"] is None
    assert {one["kept_up"] for one in result.history} == {None}
    assert result.summary["epsilon"] == result.history[-1]["epsilon"] > 0
    write_report([read_run(result.folder)], tmp_path / "report.html")
    other = run(tmp_path / "open")
    assert not (other.folder / "releases.jsonl").exists()
    assert other.history[1]["kept_up"] > 0

import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from flasc_flwr.app.config import ConfigError, RunConfig, generate
from flasc_flwr.app.config.keys import PLACES, SECTIONS
from flasc_flwr.core.methods.budget import Budget
from flasc_flwr.core.methods.schedules import Decay
from flasc_flwr.core.methods.table import METHODS
from flasc_flwr.core.optimizers import SERVER_OPTIMIZERS
from flasc_flwr.core.settings import settings_of
from flasc_flwr.core.stopping import Stop
from flasc_flwr.flower.clients.guard import Guard

ROOT = Path(__file__).parents[2]


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["flwr"]["app"]["config"]


def test_pyproject_declares_every_key_with_its_default():
    assert declared() == RunConfig().to_dict()


def test_the_block_and_the_page_are_up_to_date(capsys):
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_block_is_found_and_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    project, page = tmp_path / "pyproject.toml", tmp_path / "docs/configuration.md"
    current = (ROOT / "pyproject.toml").read_text()
    project.write_text(current.replace("lora-rank = 16", "lora-rank = 17"))
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "a/b/c/generate.py"))
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.count("is out of date") == 2
    assert generate.main([]) == generate.main(["--check"]) == 0
    assert project.read_text() == current
    assert page.read_text() == (ROOT / "docs/configuration.md").read_text()


def test_the_page_has_every_key_and_every_method():
    page = (ROOT / "docs/configuration.md").read_text()
    for key in declared():
        assert page.count(f"\n| `{key}` |") == 1, key
    for name in METHODS:
        assert f'"{name}"' in page


def test_every_key_has_help_and_a_default_that_is_allowed():
    for key, places in PLACES.items():
        setting = places[0].setting
        default = setting.run_config_default
        assert setting.help, key
        assert setting.run_config_range.require(key, default) == default


def test_every_declared_key_is_explained():
    text = (ROOT / "pyproject.toml").read_text()
    for key in declared():
        (line,) = [li for li in text.splitlines() if li.startswith(f"{key} = ")]
        assert "#" in line, key


@pytest.mark.parametrize("profile", sorted((ROOT / "conf").glob("*.toml")), ids=str)
def test_profiles_are_valid(profile):
    RunConfig.parse(tomllib.loads(profile.read_text()))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("download-density", 0, r"a number in \(0, 1\]"),
        ("download-density", 1.5, r"a number in \(0, 1\]"),
        ("upload-density", "abc", r"a number in \(0, 1\], or a fraction"),
        ("upload-density", "1/0", "a fraction such as '1/4'"),
        ("upload-density", True, "a number"),
        (
            "method",
            "magic",
            "one of 'dense', 'flasc', 'flasc-ef', 'flasc-shared-mask'",
        ),
        ("lora-rank", 0, "an integer >= 1"),
        ("lora-rank", 4.5, "an integer >= 1"),
        ("server-learning-rate", float("nan"), r"a number in \(0, inf\)"),
        ("server-learning-rate", float("inf"), r"a number in \(0, inf\)"),
        ("output-dir", "runs", "an absolute path, or one that begins with '~'"),
        ("lora-ranks", 4, "did you mean lora-rank"),
        ("lora_rank", 4, "did you mean lora-rank"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ConfigError, match=f"{key} .*{allowed}.*{value!r}"):
        RunConfig.parse({key: value})


def test_everything_wrong_is_reported_at_once():
    both = r"(?s)lora-rank must be .*, got 0.*seed must be .*, got -1"
    with pytest.raises(ConfigError, match=both):
        RunConfig.parse({"lora-rank": 0, "seed": -1})


@pytest.mark.parametrize(
    ("value", "density"), [(1, 1.0), (0.25, 0.25), ("1/4", 0.25), ("1 / 16", 0.0625)]
)
def test_densities_may_be_numbers_or_fractions(value, density):
    parsed = RunConfig.parse({"download-density": value})
    assert parsed.download_density == density
    assert type(parsed.download_density) is float
    own = Budget().limited_by({"upload-density": value})
    assert own.upload_density == density
    assert type(own.upload_density) is float


def test_with_bytes_a_density_that_is_not_given_is_1():
    config = RunConfig.parse({"upload-bytes": 4000, "download-bytes": 9000})
    assert config.budget() == Budget(
        download_density=1.0,
        upload_density=1.0,
        download_bytes=9000,
        upload_bytes=4000,
    )
    both = RunConfig.parse({"upload-bytes": 4000, "upload-density": "1/16"})
    assert both.budget() == Budget(upload_density=1 / 16, upload_bytes=4000)


@pytest.mark.parametrize("bad", [-1, 0.5, "4000", True])
@pytest.mark.parametrize("key", ["upload-bytes", "download-bytes"])
def test_bytes_are_integers(key, bad):
    with pytest.raises(ConfigError, match=f"{key} must be an integer >= 0, got"):
        RunConfig.parse({key: bad})


def test_bytes_that_a_method_cannot_keep_are_refused_before_the_run():
    with pytest.raises(ValueError, match="upload-bytes must be 0 with method"):
        RunConfig.parse({"method": "flasc-shared-mask", "upload-bytes": 4000})
    with pytest.raises(ValueError, match="download-bytes must be 0 with method"):
        RunConfig.parse({"method": "fedex-lora", "download-bytes": 4000})


def test_a_config_is_frozen_and_hashable():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1
    assert {config: 1}[RunConfig()] == 1


OTHER = {
    "seed": 7,
    "lora-rank": 4,
    "upload-density": "1/16",
    "upload-density-decay": 0.9,
    "min-nodes": 5,
    "fraction-train": 0.25,
    "max-update-norm": 3,
    "update-norm-action": "clip",
    "stop-megabytes": 8,
    "exact-residual": False,
}


def test_the_librarys_groups_are_members():
    config = RunConfig.parse(OTHER)
    assert config.lora_rank == 4
    assert config.decay == Decay(upload=0.9)
    assert config.guard == Guard(max_norm=3.0, norm_action="clip")
    assert config.stop == Stop(megabytes=8.0)
    assert config.sampling.arguments() == {
        "seed": 7,
        "fraction_train": 0.25,
        "fraction_evaluate": 0.0,
        "min_train_nodes": 5,
        "min_evaluate_nodes": 5,
        "min_available_nodes": 5,
        "oversample": 1.0,
    }


PRIVATE = {"dp-clip-norm": 1, "dp-population": 30, "dp-delta": 1e-6}


@pytest.mark.parametrize("settings", [{}, OTHER, PRIVATE])
def test_a_dictionary_of_the_settings_gives_them_back(settings):
    config = RunConfig.parse(settings)
    assert RunConfig.parse(config.to_dict()) == config
    given = {"upload-density": 1 / 16} if "upload-density" in settings else {}
    assert config.to_dict() == RunConfig().to_dict() | settings | given


def test_a_run_has_one_seed():
    assert RunConfig(seed=3).sampling.seed == 3
    assert replace(RunConfig(), seed=4).sampling.seed == 4


def test_settings_are_checked_without_parsing_too():
    with pytest.raises(ValueError, match="lora-rank must be .*, got 0"):
        RunConfig(lora_rank=0)


@pytest.mark.parametrize(
    ("key", "may_change"),
    [
        ("num-server-rounds", True),
        ("stop-megabytes", True),
        ("trackers", True),
        ("min-nodes", True),
        ("min-replies", True),
        ("fraction-train", False),
        ("seed", False),
        ("upload-density", False),
        ("upload-bytes", False),
        ("download-bytes", False),
        ("dp-clip-norm", False),
    ],
)
def test_a_resumed_run_shares_what_the_result_depends_on(key, may_change):
    assert (key not in RunConfig().shared_by_resumed()) is may_change


def test_the_librarys_defaults_are_the_run_configs():
    for section in SECTIONS:
        if section.member and section.member != "privacy":
            assert getattr(RunConfig(), section.member) == section.group()
    config = RunConfig()
    assert config.budget() == Budget()
    for name, make in SERVER_OPTIMIZERS.items():
        optimizer = replace(config, server_optimizer=name).make_server_optimizer()
        assert optimizer == make()
        assert optimizer.learning_rate == (1.0 if name in ("sgd", "fedavgm") else 0.01)


@pytest.mark.parametrize("group", [s.group for s in SECTIONS if s.member])
def test_the_librarys_groups_refuse_what_the_run_config_refuses(group):
    required = {
        name: 1
        for name, setting in settings_of(group).items()
        if not hasattr(group, name)
    }
    for name, setting in settings_of(group).items():
        with pytest.raises(ValueError, match=f"{setting.key} must be .*, got 'no'"):
            group(**required | {name: "no"})
        with pytest.raises(ConfigError, match=f"{setting.key} must be .*, got 'no'"):
            RunConfig.parse({setting.key: "no"})


def test_a_run_that_would_train_nobody_is_refused():
    with pytest.raises(ConfigError, match="fraction-train must be above 0"):
        RunConfig.parse({"fraction-train": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dp-noise-multiplier": 1.0}, "dp-noise-multiplier is 1.0 without a dp-clip"),
        ({"dp-population": 300}, "dp-population is 300 without a dp-clip-norm"),
        ({"dp-max-epsilon": 8.0}, "dp-max-epsilon is 8.0 without a dp-clip-norm"),
        ({"dp-clip-norm": 1.0}, "dp-population must be .*, got 0"),
        ({"local-dp-epsilon": 3.0}, r"local-dp-epsilon must be 0 or a number in"),
        # Its noise would be infinite.
        ({"local-dp-epsilon": 1e-45}, r"local-dp-epsilon must be 0 or .*, got 1e-45"),
    ],
)
def test_privacy_by_half_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse(settings)


def test_privacy_is_off_by_default_and_takes_its_settings_from_the_keys():
    assert RunConfig().privacy is None
    settings = {"dp-clip-norm": 0.5, "dp-noise-multiplier": 2, "dp-population": 300}
    privacy = RunConfig.parse(settings).privacy
    assert (privacy.clip_norm, privacy.noise_multiplier) == (0.5, 2.0)
    assert privacy.reported_delta == pytest.approx(300**-1.1)
    assert privacy.noise_seed is None


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("text-classification", "multi-label", True),
        ("causal-lm", "multi-label", True),
        ("text-classification", "augment", True),
        ("digits", "augment", True),
        ("image-classification", "head", "mean"),
        ("causal-lm", "head", "mean"),
    ],
)
def test_what_a_task_does_not_have_is_refused_and_not_ignored(task, key, value):
    with pytest.raises(ConfigError, match=f"{key} must be .* with task {task!r}"):
        RunConfig.parse({"task": task, key: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local-dp-clip-norm": 0.5}, "local-dp-clip-norm is 0.5 without a local-dp-"),
        ({"local-dp-delta": 1e-6}, "local-dp-delta is 1e-06 without a local-dp-eps"),
        ({"update-norm-action": "clip"}, "max-update-norm must be above 0 with update"),
        (
            {"method": "adapter-lth", "download-density-decay": 1.0},
            "download-density-decay must be below 1 with",
        ),
        ({"method": "dense", "tiers": "density"}, "tiers must not be 'density' with"),
        ({"method": "segments", "tiers": "density"}, "tiers must not be 'density'"),
        ({"model": "bert"}, "model must be '' with task 'digits', which has its own"),
        ({"dataset": "/d.csv"}, r"dataset must be '' with task 'digits'.*'/d.csv'"),
        ({"method": "full", "tiers": "rank"}, "tiers must not be 'rank' with method "),
        (
            {"method": "linear", "rank-assignment": "validation"},
            "rank-assignment must not be 'validation' with method 'linear'",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"local-dp-epsilon": 0.5, "local-dp-clip-norm": 0.5, "local-dp-delta": 1e-6},
        {"max-update-norm": 1.0, "update-norm-action": "clip"},
        {"method": "adapter-lth"},
        {"method": "adapter-lth", "download-density-decay": 0.9},
        {"method": "adapter-lth", "download-density": 1.0},
        {"method": "sparse-adapter", "tiers": "density"},
    ],
)
def test_what_has_an_effect_is_accepted(settings):
    RunConfig.parse(settings)


@pytest.mark.parametrize("value", [10**400, "1" + "0" * 400 + "/1"])
def test_numbers_too_large_for_a_float_are_refused(value):
    for key in ("lora-alpha", "download-density"):
        with pytest.raises(ConfigError, match=f"{key} must be "):
            RunConfig.parse({key: value})

import tomllib
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from flasc_flwr.app.config import ConfigError, RunConfig

ROOT = Path(__file__).parents[2]


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return project["tool"]["flwr"]["app"]["config"]


def test_pyproject_declares_every_key_with_its_default():
    assert declared() == RunConfig().to_dict()


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
            "one of 'dense', 'flasc', 'flasc-shared-mask', 'sparse-adapter'",
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


def test_all_that_is_wrong_is_told_at_once():
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


def test_a_config_is_frozen_and_hashable():
    config = RunConfig()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1
    assert {config: 1}[RunConfig()] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dp-noise-multiplier": 1.0}, "noise on updates of any size is no privacy"),
        ({"dp-population": 300}, "dp-population is 300 without a dp-clip-norm"),
        ({"dp-max-epsilon": 8.0}, "dp-max-epsilon is 8.0 without a dp-clip-norm"),
        ({"dp-clip-norm": 1.0}, "dp-population must be .*, got 0"),
        ({"local-dp-epsilon": 3.0}, r"local-dp-epsilon must be a number in"),
    ],
)
def test_privacy_by_half_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse(settings)


def test_privacy_is_off_by_default_and_takes_its_settings_from_the_keys():
    assert RunConfig().make_privacy() is None
    settings = {"dp-clip-norm": 0.5, "dp-noise-multiplier": 2, "dp-population": 300}
    privacy = RunConfig.parse(settings).make_privacy()
    assert (privacy.clip_norm, privacy.noise_multiplier) == (0.5, 2.0)
    assert privacy.told_delta == pytest.approx(300**-1.1)
    assert privacy.noise_seed is None

"""Where the project can be installed from wheels only, without a compiler.

Resolved by ``uv pip compile`` for each platform, which needs a package index.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.deploy.uv import uv

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARM = "aarch64-unknown-linux-gnu"
OTHERS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
MUSL = ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl")


def resolve(platform: str, python: str, extra: str) -> str:
    """Return the error of a resolution, or an empty text."""
    command = ["pip", "compile", "pyproject.toml", "--quiet", "--no-header"]
    command += ["--python-platform", platform, "--python-version", python]
    command += ["--only-binary", ":all:"]
    command += ["--extra", extra] if extra else []
    done = uv(*command)
    return done.stderr if done.returncode else ""


def errors(platform: str, extra: str) -> dict[str, str]:
    """Return the errors of all versions of Python that there are."""
    with ThreadPoolExecutor(len(PYTHONS)) as pool:
        found = pool.map(lambda python: resolve(platform, python, extra), PYTHONS)
        pairs = zip(PYTHONS, found, strict=True)
        return {python: error for python, error in pairs if error}


# What is needed without the extra is needed with it, too.
@pytest.mark.slow
@pytest.mark.parametrize(
    "extra", [pytest.param("", marks=pytest.mark.exhaustive), "app"]
)
def test_linux_on_arm_has_wheels_for_everything(extra):
    assert not errors(ARM, extra)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("extra", ["", "app"])
@pytest.mark.parametrize("platform", OTHERS)
def test_other_platforms_have_wheels_for_everything(platform, extra):
    assert not errors(platform, extra)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("platform", MUSL)
def test_musl_has_wheels_for_the_library(platform):
    assert not errors(platform, "")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("platform", MUSL)
def test_musl_has_no_wheels_of_ray_for_the_application(platform):
    """When this fails, docs/deploy.md can say that the application runs there."""
    found = errors(platform, "app")
    assert list(found) == list(PYTHONS)
    assert all("ray" in error for error in found.values())

"""The images, really built, and the federation of the compose file, really started.

Needs Docker with Compose. With FLASC_CONTAINERS=required, as in the workflow
``containers``, a missing engine fails instead of skipping.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.deploy.compose import FILE, ROOT
from tests.end_to_end.processes import BIN
from tests.end_to_end.tiny import make_model, make_rows, run_config

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

ROUNDS = 2
NODES = 3


def docker(*words: str, **options) -> str:
    """Run docker, and return what it prints."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, timeout=1800, **options
    )
    assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def engine():
    """Skip where there is no engine."""
    reason = ""
    if shutil.which("docker") is None:
        reason = "docker is not installed"
    else:
        asked = subprocess.run(
            ["docker", "compose", "ls"], capture_output=True, text=True
        )
        if asked.returncode:
            reason = f"no engine: {asked.stderr.strip()[-200:]}"
    if reason and os.environ.get("FLASC_CONTAINERS") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def base(engine, tmp_path_factory):
    """Build the images, and make the keys, the model and the data."""
    base = tmp_path_factory.mktemp("containers") / "deploy"
    base.mkdir()
    shutil.copy(FILE, base)
    docker("compose", "-f", str(FILE), "--profile", "*", "build", env=environment())
    script = ROOT / "deploy" / "make-keys.sh"
    subprocess.run([script, base / "keys", str(NODES)], check=True)
    make_model(base / "models" / "tiny")
    make_rows(base / "data" / "server" / "test.csv", 16, seed=9)
    for node in range(NODES):
        make_rows(base / "data" / f"node-{node}" / "train.csv", 16, seed=node)
    return base


def environment() -> dict[str, str]:
    """Return an environment in which the images' user can read the keys."""
    return os.environ | {"FLASC_UID": str(os.getuid())}


def compose(base, *words: str) -> str:
    """Run a command of Compose on the copy of the file."""
    file = str(base / "compose.yaml")
    name = ("--project-name", "flasc-test")
    return docker("compose", "-f", file, *name, *words, env=environment())


def flwr(base, *words: str) -> str:
    """Run Flower's command line on this machine."""
    home = base / "flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        "[superlink]\ndefault = 'devices'\n[superlink.devices]\n"
        "address = 'localhost:8000'\n"
        f"root-certificates = '{base / 'keys' / 'ca.crt'}'\n"
    )
    done = subprocess.run(
        ["flwr", *words],
        cwd=ROOT,
        env=os.environ
        | {"FLWR_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_federation_of_containers_trains(base):
    nodes = [f"supernode-{node}" for node in range(NODES)]
    try:
        compose(base, "up", "-d", "--no-build", "--wait", "superlink", "superexec")
        for node in range(NODES):
            key = str(base / "keys" / f"node-{node}.pub")
            flwr(base, "supernode", "register", key, "devices")
        compose(base, "up", "-d", "--no-build", "--wait", *nodes)
        settings = run_config(
            "/models/tiny",
            "/data",
            "/runs",
            f"num-server-rounds={ROUNDS} min-nodes={NODES}",
        )
        output = flwr(base, "run", ".", "devices", "--stream", *settings)
        listed = flwr(base, "list", "devices", "--format", "json")
        (run,) = json.loads(listed[listed.index("{") :])["runs"]
        assert run["status"] == "finished:completed", output
        script = "cat /runs/*/summary.json"
        summary = json.loads(
            compose(base, "exec", "-T", "superexec", "sh", "-c", script)
        )
        assert summary["ended"] == "all rounds done"
        assert summary["rounds"] == ROUNDS
        for service in ("superlink", "superexec", *nodes):
            user = compose(base, "exec", "-T", service, "id", "-u").strip()
            assert user == str(os.getuid()) != "0", service
    except AssertionError:
        print(compose(base, "--profile", "*", "logs", "--tail", "100"), file=sys.stderr)
        raise
    finally:
        compose(base, "--profile", "*", "down", "--volumes")


def test_the_superlink_has_no_torch_and_is_small(base):
    sizes = {
        image: int(docker("image", "inspect", "--format", "{{.Size}}", image))
        for image in ("flasc-flwr-superlink", "flasc-flwr")
    }
    print({image: f"{size / 10**6:.0f} MB" for image, size in sizes.items()})
    assert sizes["flasc-flwr-superlink"] < 700 * 10**6
    if os.environ.get("TORCH_CPU_INDEX"):
        assert sizes["flasc-flwr"] < 2500 * 10**6
    run = ("run", "--rm", "--entrypoint", "python")
    found = "import importlib.util as u; print(u.find_spec('torch') is None)"
    assert docker(*run, "flasc-flwr-superlink", "-c", found).strip() == "True"
    assert docker(*run, "flasc-flwr", "-c", found).strip() == "False"

"""The Dockerfile and the compose file, checked without an engine."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import yaml
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from tests.deploy.compose import FILE, ROOT, services
from tests.end_to_end.processes import free_port

IMAGES = ("superlink", "app")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile and their arguments."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word, rest) for word, rest in pairs]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return the stages by name: what they start from, and their instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for word, rest in instructions():
        if word == "FROM":
            source, _, name = rest.split()
            current = []
            found[name] = (source, current)
        else:
            current.append((word, rest))
    return found


def whole(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a stage with those it starts from."""
    if name not in stages():
        return []
    source, own = stages()[name]
    return [*whole(source), *own]


def test_the_images_are_small_and_run_without_root():
    assert [name for name in stages() if name in IMAGES] == [*IMAGES]
    for image in IMAGES:
        words = whole(image)
        users = [rest for word, rest in words if word == "USER"]
        assert users == ["flower"], image
        # What builds stays behind: an image has one environment, copied.
        assert not any("pip" in rest for word, rest in words if word == "RUN")
        copied = [rest for word, rest in words if word == "COPY" and "--from" in rest]
        assert len(copied) == 1
        (folder,) = {rest.split()[-1] for rest in copied}
        path = [r for word, r in words if word == "ENV" and r.startswith("PATH")]
        assert path == [f"PATH={folder}/bin:$PATH"]
        # Scripts of a virtual environment name its folder: it must not move.
        assert copied[0].split()[-2] == folder
        assert any(word == "HEALTHCHECK" for word, _ in words)


def test_no_instruction_is_known_to_be_bad():
    for word, rest in instructions():
        assert word != "ADD"
        assert "sudo" not in rest and "curl" not in rest
        assert "http" not in rest or word in ("HEALTHCHECK", "CMD")
        if word == "FROM":
            source = rest.split()[0]
            assert source in stages() or re.search(r":\S+$", source)
            assert not source.endswith(":latest")
        if word == "RUN" and "install" in rest and "pip " in rest:
            assert "--mount=type=cache" in rest
        if word in ("ARG", "ENV"):
            assert not re.search(r"(?i)secret|token|password|key", rest)
    shell = " ; ".join(rest for word, rest in instructions() if word == "RUN")
    shell = re.sub(r"--mount=\S+", "", shell)
    subprocess.run(["sh", "-n", "-c", shell], check=True)


def test_what_is_copied_is_there_and_not_ignored():
    lines = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            words = [part for part in rest.split() if not part.startswith("--")]
            copied |= {*words[:-1]}
    assert copied == kept
    for path in copied:
        assert (ROOT / path).exists()
        assert not any(fnmatch(path, line) for line in lines if line.startswith("**"))
    # What the package's build needs.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], project["license"]["file"], "pyproject.toml"} <= copied


def test_the_compose_file_builds_these_images():
    declared = {
        rest.split("=")[0]: rest for word, rest in instructions() if word == "ARG"
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = {}
    for name, service in services().items():
        build = service["build"]
        assert (FILE.parent / build["context"]).resolve() == ROOT
        assert build["args"].keys() <= declared.keys()
        assert {*build["args"]["EXTRAS"].split(",")} <= {
            *extras["optional-dependencies"]
        }
        images[name] = build["target"]
        assert service["image"] == (
            "flasc-flwr" if build["target"] == "app" else "flasc-flwr-superlink"
        )
        assert service["cap_drop"] == ["ALL"]
    # The SuperLink runs no code of an app.
    assert {n for n, target in images.items() if target == "superlink"} == {"superlink"}
    # torch's version in the file is the one of the package.
    text = " ".join(rest for word, rest in instructions() if word == "RUN")
    (torch,) = re.findall(r'"(torch[^"]+)"', text)
    assert torch in extras["optional-dependencies"]["app"]


def test_health_checks_ask_where_the_processes_answer():
    dockerfile = dict(
        (name, [r for w, r in whole(name) if w == "HEALTHCHECK"][-1]) for name in IMAGES
    )
    link, exec_ = services()["superlink"], services()["superexec"]
    port = link["command"][link["command"].index("--port") + 1]
    assert f"https://localhost:{port}/health" in dockerfile["superlink"]
    assert "/keys/ca.crt" in dockerfile["superlink"]
    address = exec_["command"][exec_["command"].index("--health-server-address") + 1]
    assert exec_["healthcheck"]["test"] == [
        "CMD",
        "flower-health",
        f"grpc://{address}",
    ]
    from flwr.supercore.constant import SUPERNODE_UVICORN_DEFAULT_PORT

    assert f"127.0.0.1:{SUPERNODE_UVICORN_DEFAULT_PORT}/health" in dockerfile["app"]
    assert exec_["depends_on"]["superlink"]["condition"] == "service_healthy"


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def http():
    server = HTTPServer(("127.0.0.1", 0), Health)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def asked(address):
    words = [sys.executable, str(ROOT / "deploy" / "health.py"), address]
    return subprocess.run(words, capture_output=True, text=True).returncode


def test_the_health_check_knows_who_answers(http):
    address = f"127.0.0.1:{free_port()}"
    server = run_health_server_grpc_no_tls(address)
    try:
        assert asked(f"grpc://{address}") == 0
    finally:
        server.stop(None).wait()
    assert asked(f"grpc://{address}") == 1
    assert asked(f"{http}/health") == 0
    assert asked(f"{http}/other") == 1
    assert asked(f"http://127.0.0.1:{free_port()}/health") == 1


def test_the_workflow_builds_and_starts_the_containers():
    file = ROOT / ".github" / "workflows" / "containers.yml"
    jobs = yaml.safe_load(file.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    (command,) = [s["run"] for s in steps if "pytest" in s.get("run", "")]
    assert "tests/deploy/test_containers.py" in command
    # Without an engine the test is skipped: there, that is a failure.
    assert any(s.get("env", {}).get("FLASC_CONTAINERS") == "required" for s in steps)

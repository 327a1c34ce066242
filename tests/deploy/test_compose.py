"""Flower accepts the commands of the compose file and of docs/deploy.md."""

import re
import shlex
import subprocess

import pytest
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from flwr.superlink.cli.flower_superlink import (
    _parse_args_run_superlink as superlink_parser,
)
from flwr.supernode.cli.flower_supernode import (
    _parse_args_run_supernode as supernode_parser,
)

from flasc_flwr.flower.compat import parse_config_args
from flasc_flwr.flower.device_budget import OWN_SETTINGS
from tests.deploy.compose import ROOT, command, mounts, services

PARSERS = {
    "flower-superlink": superlink_parser,
    "flower-superexec": superexec_parser,
    "flower-supernode": supernode_parser,
}
ALLOWED = {"partition-id", "num-partitions", "data-path", *OWN_SETTINGS}
NODES = [name for name in services() if name.startswith("supernode")]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "keys"
    script = ROOT / "deploy" / "make-keys.sh"
    subprocess.run([script, folder, "3", "fed.example.org", "192.0.2.7"], check=True)
    return folder


def parsed(words):
    return PARSERS[words[0]]().parse_args(words[1:])


@pytest.mark.parametrize("name", list(services()))
def test_flower_takes_every_option_of_the_compose_file(name):
    service = services()[name]
    options = parsed(command(service))
    assert not getattr(options, "insecure", False)
    # Every file that a command names is mounted.
    for word in re.findall(r"/(?:keys|state|data)/[\w.-]+", " ".join(command(service))):
        assert any(word.startswith(target) for target in mounts(service)), word


def test_the_parts_of_the_compose_file_fit_together(keys):
    every = services()
    superlink, superexec = (
        parsed(command(every[name])) for name in ("superlink", "superexec")
    )
    assert superlink.enable_supernode_auth and superlink.database
    # Without a secret, anyone who can reach the port could take the ServerApp's place.
    assert superlink.isolation == "process"
    assert superlink.superexec_auth_secret_file == superexec.superexec_auth_secret_file
    address = f"superlink:{superlink.port}"
    assert superexec.runtime_api_address == address
    nodes = [parsed(command(every[name])) for name in NODES]
    assert {node.superlink for node in nodes} == {address}
    configs = [parse_config_args([node.node_config]) for node in nodes]
    assert [config["partition-id"] for config in configs] == [0, 1, 2]
    for config in configs:
        assert config.keys() <= ALLOWED
    # Each device has the CA's certificate, its own key, and no other.
    made = {path.name for path in keys.iterdir()}
    for i, name in enumerate(NODES):
        own = mounts(every[name])
        assert own["/keys/node"] == f"./keys/node-{i}"
        assert own["/keys/ca.crt"] == "./keys/ca.crt"
        assert sum(source.startswith("./keys") for source in own.values()) == 2
    for service in every.values():
        for source in mounts(service).values():
            if source.startswith("./keys/"):
                assert source.removeprefix("./keys/") in made


def test_the_certificate_is_valid_for_the_hosts_and_signed_by_the_ca(keys):
    certificate = keys / "superlink.crt"
    for option in (["-verify_hostname", h] for h in ("superlink", "fed.example.org")):
        check = ["openssl", "verify", "-x509_strict", "-CAfile", keys / "ca.crt"]
        subprocess.run([*check, *option, certificate], check=True)
    for ip in ("127.0.0.1", "192.0.2.7"):
        subprocess.run([*check, "-verify_ip", ip, certificate], check=True)
    wrong = subprocess.run([*check, "-verify_hostname", "elsewhere", certificate])
    assert wrong.returncode != 0


def test_only_the_owner_can_read_secrets_and_nothing_is_overwritten(keys):
    for path in keys.iterdir():
        shared = path.suffix in (".crt", ".pub")
        assert shared or path.stat().st_mode & 0o077 == 0, path.name
    before = (keys / "ca.key").read_bytes()
    script = ROOT / "deploy" / "make-keys.sh"
    assert subprocess.run([script, keys, "3"]).returncode == 1
    assert (keys / "ca.key").read_bytes() == before
    assert subprocess.run([script, keys.parent / "other", "no"]).returncode == 2


@pytest.mark.parametrize("host", ["fed.example.org:8000", "a,DNS:b", "two words", ""])
def test_what_is_not_a_host_is_refused_before_anything_is_written(tmp_path, host):
    script = ROOT / "deploy" / "make-keys.sh"
    words = [script, tmp_path / "keys", "1", "fed.example.org", host]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"HOST must be a name or an address, without a port, got {host}\n"
    )
    assert not (tmp_path / "keys").exists()


def test_flower_takes_every_option_of_the_guide():
    text = (ROOT / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.strip(" &")) for line in lines if "flower-" in line]
    assert {line[0] for line in words} == PARSERS.keys()
    for line in words:
        options = parsed(line)
        if getattr(options, "node_config", None):
            assert parse_config_args([options.node_config]).keys() <= ALLOWED
    stripped = map(str.strip, lines)  # a block in a list is indented
    prepared = [line for line in stripped if line.startswith("flasc-flwr supernode")]
    for line in prepared:
        options = PARSERS["flower-supernode"]().parse_args(shlex.split(line)[2:])
        assert parse_config_args([options.node_config]).keys() <= ALLOWED
    assert prepared

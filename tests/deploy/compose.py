"""The commands of ``deploy/compose.yaml``, read as Docker would read them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"


def services() -> dict[str, dict]:
    """Return the services, variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    return yaml.safe_load(text)["services"]


def command(service: dict) -> list[str]:
    """Return a service's whole command."""
    return [*service.get("entrypoint", []), *service["command"]]


def mounts(service: dict) -> dict[str, str]:
    """Return the mounts: path in the container to its source."""
    pairs = [volume.split(":")[:2] for volume in service.get("volumes", [])]
    return {target: source for source, target in pairs}

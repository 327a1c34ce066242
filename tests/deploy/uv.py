"""uv, which needs a package index: skipped where it cannot reach one."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OFFLINE = (
    "Failed to fetch",
    "error sending request",
    "offline",
    "Network",
    "dns error",
)


def uv(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of uv in the checkout."""
    if not shutil.which("uv"):
        pytest.skip("uv is not installed")
    command = ("uv", *words)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode and any(sign in done.stderr for sign in _OFFLINE):
        pytest.skip(f"the package index cannot be reached: {done.stderr[-300:]}")
    return done

"""A tutorial's blocks, run from top to bottom as its reader does.

``sh`` and ``python`` blocks are run, in one folder and with one environment; what they
print is returned. A block whose title is a file's name is written to that file, or
applied to it if it is a ``diff``. A block whose title begins with "Terminal" is started
and stays until the end of the tutorial. ``text`` blocks show output and are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import ROOT, stop

_FENCE = re.compile(
    r'^( *)```(\w+)(?: title="([^"]*)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL
)
_INSTALL = re.compile(r"^(?:python3 -m venv .*|pip install .*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    return [
        Block(language, title, textwrap.dedent(text))
        for _, language, title, text in _FENCE.findall(page.read_text())
    ]


@dataclass
class Reader:
    """Somebody who follows a tutorial.

    Attributes
    ----------
    folder : Path
        Where the commands run.
    env : dict[str, str]
        Their environment; what a block exports is there for the next.
    smaller : dict[str, str]
        Text to replace, so that a test is short; all of it must be on the page.
    ready : Callable[[Block, Path], None]
        Waits until a block in another terminal is ready; gets the file with its output.
    """

    folder: Path
    env: dict[str, str]
    smaller: dict[str, str]
    ready: Callable[[Block, Path], None]

    @contextmanager
    def follow(self, page: Path) -> Iterator[list[str]]:
        """Run all blocks; yield what each printed while terminals are still open."""
        found = blocks(page)
        text = "".join(block.text for block in found)
        for wanted in self.smaller:
            assert wanted in text, f"{page.name} has no {wanted!r}"
        with ExitStack() as stack:
            yield [self._run(block, stack) for block in found]

    def _run(self, block: Block, stack: ExitStack) -> str:
        text = block.text
        for wanted, smaller in self.smaller.items():
            text = text.replace(wanted, smaller)
        if block.language == "text":
            return ""
        if block.title.startswith("Terminal"):
            self._open_terminal(block, text, stack)
            return ""
        if block.language == "diff":
            self._apply(block.title, text)
            return ""
        if block.title:
            file = self.folder / block.title
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            return ""
        return self._sh(text) if block.language == "sh" else self._python(text)

    def _sh(self, text: str) -> str:
        for line in _INSTALL.findall(text):
            require_extras(line)
        kept = self.folder / "env"
        text = _INSTALL.sub("", text)
        output = self._call("bash", "-euc", f"{text}\nenv -0 > '{kept}'")
        pairs = (p.partition("=") for p in kept.read_text().split("\0") if p)
        self.env = {name: value for name, _, value in pairs}
        return output

    def _python(self, text: str) -> str:
        return self._call(sys.executable, "-c", text)

    def _call(self, *words: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}"
        return done.stdout

    def _open_terminal(self, block: Block, text: str, stack: ExitStack) -> None:
        number = len([*self.folder.glob("terminal-*")])
        log = self.folder / f"terminal-{number}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ("bash", "-c", text),
                cwd=self.folder,
                env=self.env | {"PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=output,
            )
        stack.callback(stop, process.pid)
        self.ready(block, log)

    def _apply(self, name: str, diff: str) -> None:
        """Change a file as a diff without line numbers says."""
        lines = diff.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        file = self.folder / name
        before = file.read_text()
        assert before.count(old) == 1, f"{name} must have once:\n{old}"
        file.write_text(before.replace(old, new))


def require_extras(line: str) -> None:
    """Require that the extras of a ``pip install`` line exist; nothing is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"\[([\w,]+)\]\"?(?: |$)", line):
        assert set(extras.split(",")) <= {*project["optional-dependencies"]}, line


def environment(home: Path) -> dict[str, str]:
    """Return an environment with its own home, and the caches of the real one."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return {"HOME": str(home), "XDG_CACHE_HOME": cache, "PYTHONPATH": str(ROOT)}

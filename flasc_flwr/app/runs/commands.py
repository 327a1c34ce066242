"""Where Flower's commands are found: in the environment of this Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def own_first() -> str:
    """Return the ``PATH`` with the folder of this Python's commands before all others.

    Flower starts commands by name. A service calls ours by its path, without an
    activated environment; and a command that is found elsewhere may be of another
    version of Flower.
    """
    beside = str(Path(sys.executable).parent)
    return os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])

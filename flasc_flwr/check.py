"""Check a run config without running it.

``python -m flasc_flwr.check "lora-rank=8 upload-density='1/16'"``, or with the path of
a profile. Flower refuses a key that the app does not declare before any of the app's
code runs, and does not say which one it was; this does.
"""

from __future__ import annotations

import sys

from flwr.common.config import parse_config_args

from flasc_flwr.config import ConfigError, RunConfig


def main(arguments: list[str]) -> int:
    """Print the resolved config, or what is wrong with it.

    Parameters
    ----------
    arguments : list[str]
        What would stand after ``--run-config``.

    Returns
    -------
    int
        Exit status: 0 if the config can be run.
    """
    try:
        config = RunConfig.parse(parse_config_args(arguments))
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for key, value in config.to_dict().items():
        print(f"{key} = {value!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

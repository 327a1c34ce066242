"""Find the noise for what may be spent.

``flasc-flwr noise --epsilon 8 --rounds 40 --cohort 30 --population 300``
prints the smallest ``dp-noise-multiplier`` that spends no more than that.
"""

from __future__ import annotations

import argparse
import sys

from flasc_flwr.core.privacy import SAMPLINGS, Privacy


def main(arguments: list[str]) -> int:
    """Print the noise multiplier and what it is for, or what is wrong.

    Parameters
    ----------
    arguments : list[str]
        The command line's.

    Returns
    -------
    int
        Exit status: 0 if it was found.
    """
    parser = argparse.ArgumentParser(prog="python -m flasc_flwr.app.cli.noise")
    parser.add_argument("--epsilon", type=float, required=True, help="may be spent")
    parser.add_argument("--rounds", type=int, required=True, help="of the run")
    parser.add_argument("--cohort", type=int, required=True, help="clients a round")
    parser.add_argument("--population", type=int, required=True, help="clients in all")
    parser.add_argument("--delta", type=float, help="by default population ** -1.1")
    parser.add_argument("--sampling", choices=SAMPLINGS, default="fixed")
    given = parser.parse_args(arguments)

    from flasc_flwr.flower.privacy.accounting import noise_for

    try:
        found = noise_for(**vars(given))
        privacy = Privacy(
            clip_norm=1.0,
            noise_multiplier=found,
            population=given.population,
            delta=given.delta,
        )
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"dp-noise-multiplier = {found:.4f}  # delta {privacy.reported_delta:.4g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

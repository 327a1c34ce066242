"""``python -m flasc_flwr.cli`` is the same as ``flasc-flwr``."""

from flasc_flwr.cli import main

main()

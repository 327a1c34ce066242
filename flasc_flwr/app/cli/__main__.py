"""``python -m flasc_flwr.app.cli`` is the same as ``flasc-flwr``."""

from flasc_flwr.app.cli import main

main()

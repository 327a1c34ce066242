"""What a run leaves behind, for people and for programs."""

from flasc_flwr.reporting.run_folder import RunFolder

__all__ = ["RunFolder"]

"""What a run leaves behind, for people and for programs."""

from flasc_flwr.app.reporting.run_folder import RunFolder

__all__ = ["RunFolder"]

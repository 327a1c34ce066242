"""The results of a run: its folder, comparisons, reports and trackers."""

from flasc_flwr.app.reporting.run_folder import RunFolder

__all__ = ["RunFolder"]

"""Differential privacy in a run."""

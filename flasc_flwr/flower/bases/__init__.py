"""Measured bases of cores in messages: sent to each device once, and kept there."""

"""The state of a run: kept in memory, in checkpoints and as rows of the history."""

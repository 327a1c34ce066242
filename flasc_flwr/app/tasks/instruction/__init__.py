"""Task ``instruction``: prompts and responses, with the loss on the responses only."""

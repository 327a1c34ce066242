"""The error that decoding raises."""


class PayloadError(ValueError):
    """A payload cannot be decoded; the message says what is wrong, and where."""

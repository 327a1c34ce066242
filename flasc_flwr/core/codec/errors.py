"""The one error that decoding raises."""


class PayloadError(ValueError):
    """A payload that cannot be decoded: what is wrong, and where."""

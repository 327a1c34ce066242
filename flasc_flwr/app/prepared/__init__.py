"""A SuperNode whose messages are handled by processes that have the libraries."""

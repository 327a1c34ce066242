"""Other people's Flower apps, with and without SparseTransport (foreign_apps.py)."""

"""The most memory that a call takes."""

import tracemalloc


def peak_of(function, *arguments, **options):
    """Return the most bytes that a call allocates at once, its result included."""
    tracemalloc.start()
    try:
        function(*arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

"""The Flower edge: the only place that knows messages, records and grids."""

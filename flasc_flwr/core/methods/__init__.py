"""Methods as data: what each sends, trains and aggregates."""

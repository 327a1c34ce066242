"""A report in the browser that follows runs while they go on."""

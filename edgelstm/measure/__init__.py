"""Time and size: percentiles with intervals, the bench, the machine's own rates."""

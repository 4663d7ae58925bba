"""Linear probe, group metrics with intervals, separation of classes."""

"""Oriented object detection: a pyramid and an FCOS head on any backbone, with losses for long tails."""

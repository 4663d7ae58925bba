"""Comparisons over seeds, and studies."""

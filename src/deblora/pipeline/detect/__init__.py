"""Oriented detection: one module per command."""

"""Chips: where they come from, how they are read, split, counted and simulated."""

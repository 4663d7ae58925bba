"""Simulated chips and scenes with a long tail."""

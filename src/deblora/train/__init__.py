"""Adapter training and feature extraction."""

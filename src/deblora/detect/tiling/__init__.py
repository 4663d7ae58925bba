"""Scenes cut to tiles, with their boxes."""

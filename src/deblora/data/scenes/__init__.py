"""Scenes: large images, their annotations and windows of their pixels."""

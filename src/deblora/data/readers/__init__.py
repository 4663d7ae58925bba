"""Readers: one module per layout of labeled chips, and the registry that picks one."""

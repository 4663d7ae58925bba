"""The oriented FCOS detector."""

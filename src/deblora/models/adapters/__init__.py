"""Adapters in the format of PEFT."""

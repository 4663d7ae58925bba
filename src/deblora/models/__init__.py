"""Backbones behind one protocol, and LoRA adapters on them."""

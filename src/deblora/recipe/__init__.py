"""Settings of every command."""

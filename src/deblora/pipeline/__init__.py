"""One module per stage of the road; each reads artifacts, calls the core, writes artifacts."""

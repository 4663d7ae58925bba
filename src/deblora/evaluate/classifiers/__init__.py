"""Long-tail classifiers on frozen features: how each is fitted, chosen on validation, saved and loaded."""

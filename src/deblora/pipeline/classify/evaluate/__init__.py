"""Evaluation: classifiers on features, scores, choice."""

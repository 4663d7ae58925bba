"""Average precision of oriented detections."""

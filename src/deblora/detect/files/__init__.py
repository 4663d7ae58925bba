"""Files of detections: Task-1, GeoJSON, GeoPackage."""

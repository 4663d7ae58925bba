"""K-means with a minimum cluster size."""

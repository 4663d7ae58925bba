"""The method on an embedding matrix: clusters, de-biased centers, calibrated training features."""

import numpy as np

from deblora.debias import Debiaser

rng = np.random.default_rng(0)
labels = np.repeat([0, 1, 2], [200, 100, 10])  # class 2 is rare
features = rng.normal(size=(310, 16)) + labels[:, None]
calibrated = Debiaser().fit(features, labels).calibrated_
moved = np.linalg.norm(calibrated - features, axis=1)
for label in range(3):
    print(f"class {label}: moved by {moved[labels == label].mean():.2f} on average")

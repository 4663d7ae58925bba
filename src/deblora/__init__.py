"""De-biased LoRA adapters for long-tailed remote-sensing imagery.

Packages, in the order data flows through them: ``data`` (chips, readers, long tail, scenes), ``models``
(backbones, LoRA), ``train`` (adapter training, extraction), ``debias`` (clusters, centers, calibration),
``evaluate`` (probe, metrics), ``report``; the shell is ``config``, ``run_dir``, ``stages``, ``pipeline``, ``cli``.
"""

__version__ = "0.1.0"

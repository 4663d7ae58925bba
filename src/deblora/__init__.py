"""De-biased LoRA adapters for long-tailed remote-sensing imagery.

Rooms, from the ground up: ``data`` (chips, readers, long tail, simulator), ``models`` (backbones, adapters), ``train``
(loop, objectives, extraction), ``debias`` (clusters, centers, calibration), ``evaluate`` (classifiers, metrics),
``detect`` (oriented detection); then the shell: ``recipe`` (settings), ``run`` (run folders, stages), ``report``
(pages), ``pipeline`` (the stages in order), ``cli``.
"""

__version__ = "0.1.0"

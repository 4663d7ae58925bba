"""A recipe of two steps, and few classifiers."""

from collections.abc import Iterator

import pytest

import deblora.pipeline.classify.evaluate.heads as heads
from deblora.evaluate.heads.trials import PRIOR_CLASSIFIERS


@pytest.fixture(scope="module")
def cheap() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "CLASSIFIERS", PRIOR_CLASSIFIERS)
        yield patch

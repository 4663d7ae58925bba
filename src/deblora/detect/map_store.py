"""Feature maps of a frozen extractor, kept on disk: each view of a tile passes the extractor once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from deblora.files import write_atomic

Maps = list[Float[torch.Tensor, "d h w"]]
Extract = Callable[[Float[torch.Tensor, "c t t"]], Sequence[Float[torch.Tensor, "d h w"]]]


class MapStore:
    """Maps in half precision, one file per entry; computed where they are not there yet.

    Half precision keeps 11 bits, about three decimal digits. What is computed is rounded too, so training does not
    depend on which entries were there. Files are written atomically: several runs on the same extractor may share a
    folder, at the same time.

    Args:
        folder: Of this extractor and normalization; another extractor needs another folder.
        extract: From pixels of one tile to maps, finest first.
        max_bytes: Entries beyond are computed each time.
    """

    def __init__(self, folder: Path, extract: Extract, *, max_bytes: int) -> None:
        self.folder, self._extract, self._max_bytes = folder, extract, max_bytes
        self._n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def get(self, name: str, pixels: Callable[[], Float[torch.Tensor, "c t t"]]) -> Maps:
        """Return the maps of an entry; ``pixels`` is called only if they are not stored, or their file is damaged."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            try:
                found = load_file(path)
                return [found[str(i)].float() for i in range(len(found))]
            except (SafetensorError, OSError, KeyError):
                path.unlink(missing_ok=True)
        halves = [level.detach().cpu().half().contiguous() for level in self._extract(pixels())]
        if self._n_bytes < self._max_bytes:
            content = save({str(i): level for i, level in enumerate(halves)})
            self._n_bytes += len(content)
            write_atomic(path, content)
        return [level.float() for level in halves]

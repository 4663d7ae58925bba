"""Products of tall tables, by NumPy or, where it pays, by torch's faster float32 kernels.

On CPUs with AVX-512 torch's precision ``"medium"`` selects kernels that are about twice as fast as the default ones
and as exact. On CPUs with bfloat16 matrix units the same setting may drop digits: a trial product decides, once
per process.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor

Product = Callable[[Float[np.ndarray, "m d"], Float[np.ndarray, "k d"]], Float[np.ndarray, "m k"]]

# Ours: below this many multiplications per pass, importing torch would cost more than it saves.
MANY_MULTIPLICATIONS = 1 << 28
# Ours: float32 kernels stay below 1e-6 of the row norms, bfloat16 ones lie near 1e-3.
LARGEST_ERROR = 1e-5
TRIAL_SHAPE = (512, 1280, 32)


def product_for(n_multiplications: int, dtype: np.dtype[Any]) -> Product:
    """Return the product for one run; it depends on size, dtype and installed packages only.

    Args:
        n_multiplications: Multiplications in one pass over the data.
        dtype: Of the data; float64 stays with NumPy, as torch is no faster there.
    """
    if dtype == np.float32 and n_multiplications >= MANY_MULTIPLICATIONS and _torch_is_installed():
        return torch_products
    return numpy_products


def numpy_products(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "m k"]:
    """Return ``a @ b.T``."""
    product: Float[np.ndarray, "m k"] = a @ b.T
    return product


def torch_products(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "m k"]:
    """Return ``a @ b.T`` by torch, with float32's precision; torch's global precision is restored afterwards.

    The setting is global to the process: products of other threads at that moment see it as well.
    """
    return _with_precision(a, b, _safe_precision())


def take_rows(table: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
    """Return ``table[rows]``, by torch's threads where torch is at work already: the same bits, sooner."""
    taken: Float[np.ndarray, "m d"]
    in_memory = isinstance(table, np.ndarray)  # else rows on disk, see row_blocks
    if not in_memory or "torch" not in sys.modules or table.dtype != np.float32 or not table.flags.carray:
        taken = table[rows]
        return taken
    import torch

    taken = torch.from_numpy(table).index_select(0, torch.from_numpy(rows)).numpy()
    return taken


@cache
def _torch_is_installed() -> bool:
    try:
        import torch  # noqa: F401 - only whether it loads
    except ImportError:
        return False
    return True


@cache
def _safe_precision() -> str:
    """Return torch's fastest precision setting that keeps float32's digits on this machine."""
    m, d, k = TRIAL_SHAPE
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, d), dtype=np.float32)
    b = rng.standard_normal((k, d), dtype=np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    error = np.abs(_with_precision(a, b, "medium") - exact).max() / np.abs(exact).max()
    return "medium" if error < LARGEST_ERROR else "highest"


def _with_precision(
    a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "k d"], precision: str
) -> Float[np.ndarray, "m k"]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        product: Float[np.ndarray, "m k"] = (_tensor(a) @ _tensor(b).T).numpy()
    finally:
        torch.set_float32_matmul_precision(before)
    return product


def _tensor(array: Float[np.ndarray, "m d"]) -> "Tensor":
    """Wrap an array without a copy where torch can: not read-only, no negative strides."""
    import torch

    wraps = array.flags.writeable and all(
        stride >= 0 and stride % array.itemsize == 0 for stride in array.strides
    )
    return torch.from_numpy(array if wraps else array.copy())

"""Say what this machine lends to this process."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def multiplies_bf16() -> bool:
    """Whether the processor multiplies matrices of bf16, as far as the system says so."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as told:
            flags = set(next((line for line in told if line.startswith("flags")), "").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def peak_memory() -> int | None:
    """The most bytes that this process has held at once, as far as the system says so."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def product_threads(most: int | None) -> AbstractContextManager[object]:
    """While open, NumPy's matrix products use so many threads at most; None: as many as they like."""
    from threadpoolctl import threadpool_limits  # looks through all loaded libraries: only where it is wanted

    limits: AbstractContextManager[object] = threadpool_limits(most, user_api="blas")
    return limits


# Numbers of glibc's malloc.h, and bytes: of freed memory at the top that is given back, of a piece that gets pages of
# its own. An old glibc takes no more than 32 MiB for the second.
_TRIM, _OWN_PAGES = -1, -3
_TRIM_BYTES, _OWN_PAGES_BYTES = (1 << 31) - 1, (1 << 30, 1 << 25)
# Photos of up to a megapixel stay below the second: each of their pieces would cost time to get.
_SMALL_TRIM_BYTES, _SMALL_OWN_PAGES_BYTES = 1 << 20, (1 << 22,)


@cache
def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed, without asking the kernel for it each time.

    Each step of training and each chunk of photos wants the same memory as the one before. Handed back and asked for
    anew, all its pages must be zeroed again, which costs a quarter of the time and more. Where C's library is another
    than glibc, nothing happens.
    """
    _allocate(trim=_TRIM_BYTES, own_pages=_OWN_PAGES_BYTES)


def return_freed_memory() -> None:
    """Let this process give large pieces of memory back as soon as they are freed, for as long as it runs.

    glibc does so at first, but takes each piece that is freed as a sign that others of its size will follow, which it
    then keeps, scattered between small ones and once for each thread. A service that decodes photos of every size for
    weeks would hold several times what it uses.
    """
    _allocate(trim=_SMALL_TRIM_BYTES, own_pages=_SMALL_OWN_PAGES_BYTES)


def _allocate(*, trim: int, own_pages: Sequence[int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM, trim)
        any(mallopt(_OWN_PAGES, size) for size in own_pages)

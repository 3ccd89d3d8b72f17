"""Say what this machine lends to this process."""

from __future__ import annotations

import ctypes
import os
import sys
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


@cache
def keep_freed_memory() -> None:
    """Let this process use memory again that it has freed, without asking the kernel for it each time.

    Each step of training and each chunk of photos wants the same memory as the one before. Handed back and asked for
    anew, all its pages must be zeroed again, which costs a quarter of the time and more. Where C's library is another
    than glibc, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM, _TRIM_BYTES)
        any(mallopt(_OWN_PAGES, size) for size in _OWN_PAGES_BYTES)

"""How the C library hands out memory: kept between clips, instead of given back to the system and fetched anew for each activation.

A step on a clip makes and frees hundreds of tensors of tens of megabytes.  glibc maps each from the system and unmaps it again, and the
system clears every page on the way: measured on two cores, a fifth of a clip's CPU time.  Kept, the memory is that of the largest clip so far.
"""
import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
NEVER_BYTES, PAD_BYTES = 2**31 - 1, 2**26  # the most that mallopt takes; what the heap grows by at a time


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for good; for programs, not for libraries.  False, and nothing changed, without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER_BYTES), mallopt(M_TOP_PAD, PAD_BYTES)])

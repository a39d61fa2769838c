"""How much memory this process has used."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> dict[str, int]:
    """Largest memory of this process so far, in bytes: resident, and allocated on the GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_bytes": resident if sys.platform == "darwin" else resident * 1024,
        "peak_gpu_memory_bytes": (
            torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        ),
    }

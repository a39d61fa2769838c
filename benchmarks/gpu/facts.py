"""What the machine is: its card, driver, processor and libraries.

    python -m benchmarks.gpu.facts --device cuda --json facts.json

Fails where the device is not there, or a first computation on it does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from modkernel.system.precision import choose_arithmetic

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "safetensors",
    "scikit-learn",
    "pillow",
    "pydantic",
    "pydantic-core",
    "pytest",
    "hypothesis",
)
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm"


def main() -> None:
    """Print the facts and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = facts(given.device)
    for name, value in found.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def facts(device: str) -> dict[str, Any]:
    """The facts; `device` as `choose_arithmetic` takes it."""
    arithmetic = choose_arithmetic(device)
    x = torch.ones(64, 64, device=arithmetic.device)
    with arithmetic.autocast():
        assert float((x @ x).sum()) == 64**3
    found: dict[str, Any] = {
        "card": "none",
        "device": str(arithmetic.device),
        "precision": arithmetic.name,
        "cpu_count": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if arithmetic.device.type == "cuda":
        properties = torch.cuda.get_device_properties(arithmetic.device)
        found["card"] = properties.name
        found["gpu_memory_bytes"] = properties.total_memory
        found["multiprocessors"] = properties.multi_processor_count
        found["capability"] = list(torch.cuda.get_device_capability(arithmetic.device))
        found["cudnn"] = torch.backends.cudnn.version()
        found["driver"] = _driver()
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _driver() -> dict[str, str]:
    """What nvidia-smi says of the first card; empty where it is missing or silent."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.splitlines()[0].split(", ") if done.stdout else []
    return dict(zip(QUERY.split(","), values, strict=False))


if __name__ == "__main__":
    main()

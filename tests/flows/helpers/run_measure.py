"""Measure all modules in a process of its own: run_measure DATA RESULT."""

from __future__ import annotations

import sys
from pathlib import Path

from modkernel.flows.measure_modules import measure_modules
from modkernel.spec import DatasetSpec

if __name__ == "__main__":
    source, result = map(Path, sys.argv[1:])
    done = measure_modules(DatasetSpec.model_validate_json(source.read_bytes()))
    result.write_text(done.model_dump_json())

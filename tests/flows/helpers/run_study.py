"""Run a study in a process of its own: `python -m tests.flows.helpers.run_study SPEC RESULT`."""

from __future__ import annotations

import sys
from pathlib import Path

from modkernel.flows.study.spec import StudySpec
from modkernel.flows.transfer_study import transfer_study

if __name__ == "__main__":
    spec, result = map(Path, sys.argv[1:])
    done = transfer_study(StudySpec.model_validate_json(spec.read_bytes()))
    result.write_text(done.model_dump_json())

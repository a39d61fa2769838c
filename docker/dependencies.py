"""Print what pyproject.toml requires, a line each; `--without NAME ...` leaves some out."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

left_out = sys.argv[2:] if sys.argv[1:2] == ["--without"] else []
for line in tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]:
    if re.split(r"[^\w.-]", line)[0].lower() not in left_out:
        print(line)

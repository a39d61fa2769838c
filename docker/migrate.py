#!/usr/bin/env python
"""Bring all databases to the schemas of what is installed: run once before the servers start."""

from __future__ import annotations

import subprocess
import sys

from modkernel.flows.servers.doctor import upgrade
from modkernel.registry import Settings

for line in upgrade(Settings()):
    print(line)
prefect = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
sys.exit(subprocess.run(prefect).returncode)

"""Several processes that have joined, and do together what a test asks for, one thing at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from modkernel.lookup import import_object
from modkernel.training.parallel.join import joined

CASES = "tests.modkernel.helpers.parallel_cases"
LONGEST = 300
"""Seconds of one case: a process that waits for the other for ever is ended, and the test fails."""


class RankPair:
    """Two processes on the CPU, until it is closed."""

    SIZE = 2

    def __init__(self, meeting: Path) -> None:
        pipes = [(os.pipe(), os.pipe()) for _ in range(self.SIZE)]
        theirs = [(commands[0], answers[1]) for commands, answers in pipes]
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(meeting), json.dumps(theirs)],
            pass_fds=[end for pair in theirs for end in pair],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for pair in theirs:
            for end in pair:
                os.close(end)
        self.commands = [os.fdopen(commands[1], "w") for commands, _ in pipes]
        self.answers = [os.fdopen(answers[0]) for _, answers in pipes]

    def __call__(self, case: str, **arguments: Any) -> list[Any]:
        """What each process's call of a function of `parallel_cases` returned."""
        for commands in self.commands:
            commands.write(json.dumps([case, arguments]) + "\n")
            commands.flush()
        answers = [
            json.loads(answers.readline() or '{"failed": "died"}') for answers in self.answers
        ]
        failed = [answer["failed"] for answer in answers if "failed" in answer]
        assert not failed, failed[0]
        return [answer["result"] for answer in answers]

    def close(self) -> None:
        for file in (*self.commands, *self.answers):
            file.close()
        self.process.wait(60)


def serve(rank: int, size: int, meeting: Path, given: int, wanted: int) -> None:
    with (
        os.fdopen(given) as commands,
        os.fdopen(wanted, "w") as answers,
        joined(rank, size, meeting, "cpu") as ranks,
    ):
        for line in commands:
            case, arguments = json.loads(line)
            signal.alarm(LONGEST)
            try:
                call = import_object(f"{CASES}:{case}", "case")
                answer = {"result": call(ranks, **arguments)}
            except Exception:
                answer = {"failed": traceback.format_exc()}
            signal.alarm(0)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def main() -> None:
    meeting, theirs = Path(sys.argv[1]), json.loads(sys.argv[2])
    import_object(f"{CASES}:train", "case")  # Before the fork: the import takes seconds.
    rank = next((rank for rank in range(1, len(theirs)) if os.fork() == 0), 0)
    for end in (end for other, ends in enumerate(theirs) if other != rank for end in ends):
        os.close(end)  # Whoever reads the other's answers is to notice its end.
    serve(rank, len(theirs), meeting, *theirs[rank])
    os._exit(0)  # Taking down all that was imported takes longer than what was asked for.


if __name__ == "__main__":
    main()

"""The steps of `benchmarks/gpu.sh`, for a GPU and, tiny, for any machine."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.unpack import packed_images

NAMES = ("facts", "tests", "speed", "paper")
SPARE_SECONDS = 15.0
"""Of the time in all, that is left for starting and for writing the table."""


@dataclass(frozen=True)
class Step:
    """A command, its limit in seconds, and where it leaves its figures."""

    name: str
    command: tuple[str, ...]
    limit: float
    result: Path


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    here = Path(__file__).parent.parent
    parser.add_argument("--carry", type=Path, default=here / "carry", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, default=here / "out", help="folder of gpu.json, gpu.md and gpu.log"
    )
    parser.add_argument("--tiny", action="store_true", help="show that the script works, anywhere")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="STEP")
    parser.add_argument("--device", help="cuda; with --tiny, auto")
    parser.add_argument("--seconds", type=float, default=580, help="for all steps together")
    parser.add_argument("--tests-seconds", type=float, default=150, help="at most, for the tests")
    parser.add_argument("--speed-seconds", type=float, default=100, help="at most, for the speeds")
    parser.add_argument(
        "--paper-seconds", type=float, default=360, help="at most, for the paper's setting"
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--paper", nargs=argparse.REMAINDER, default=[], help="more for that step")
    given = parser.parse_args()
    given.output, given.carry = given.output.resolve(), given.carry.resolve()
    given.device = given.device or ("auto" if given.tiny else "cuda")
    return given


def unpack_step(given: argparse.Namespace) -> Step | None:
    """Unpacking and decoding the images, which goes on beside the tests; none if not needed."""
    if given.tiny or "paper" not in given.only:
        return None
    command = (
        *_module("unpack"),
        *("--archive", str(packed_images(given.carry) or given.carry / "*.tar.xz")),
        *("--images", str(images(given)), "--cache", str(given.scratch / "cache")),
    )
    return Step("images", command, 240, given.scratch / "images.json")


def images(given: argparse.Namespace) -> Path:
    """Where the image folder is unpacked: it is called as its archive is."""
    packed = packed_images(given.carry)
    name = "images" if packed is None else packed.name.removesuffix(".tar.xz")
    return Path(given.scratch, name)


def make_step(name: str, given: argparse.Namespace, left: float) -> Step:
    """A step, when `left` seconds are left for it and for what comes after it."""
    result = given.scratch / f"{name}.json"
    device = ("--device", given.device)
    written = (*device, "--json", str(result))
    if name == "facts":
        return Step(name, (*_module("facts"), *written), min(60, left), result)
    if name == "tests":
        return Step(name, _tests(given), min(given.tests_seconds, left), result.with_suffix(".xml"))
    if name == "speed":
        how = (
            "--width 2 --batches 16 --steps 2 --rounds 1 --peak 128"
            if given.tiny
            else "--batches 128 512 --steps 100 --rounds 2 --peak 8192"
        )
        loops = ("--modes", "eager", "graph", "--workers", _workers(given))
        command = (sys.executable, "-m", "benchmarks.training_speed", *how.split(), *loops)
        return Step(name, (*command, *written), min(given.speed_seconds, left), result)
    limit = min(given.paper_seconds, left)
    if given.tiny:
        how = "--dataset digits --crop 1 --no-flip --width 2 --batch 256 --draws 3 --most-epochs 1"
        data = ("--seconds", "40", *how.split())
    else:
        data = ("--images", str(images(given)), "--seconds", str(round(limit - 10)))
    cache = ("--cache", str(given.scratch / "cache"))
    return Step(name, (*_module("paper"), *written, *cache, *data, *given.paper), limit, result)


def _tests(given: argparse.Namespace) -> tuple[str, ...]:
    tests = "tests/modkernel/test_data_augment.py" if given.tiny else "tests/modkernel"
    at_once = () if given.tiny else ("-n", str(given.workers))
    results = ("--junitxml", str(given.scratch / "tests.xml"))
    plugins = ("-p", "no:cacheprovider", "-p", "xdist", "-p", "timeout", "--timeout", "100")
    # A stranger's warning on a strange machine is no fault of what is tested.
    command = (sys.executable, "-m", "pytest", "-q", "-W", "default", *plugins, "-m", "gpu")
    return (*command, "--device", given.device, *at_once, "--durations", "8", *results, tests)


def _workers(given: argparse.Namespace) -> str:
    return "0" if given.tiny else str(given.workers)


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.gpu.{name}")

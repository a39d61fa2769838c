"""What the benchmarks that train a hidden module on a real data set ask for alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from modkernel.spec import ObjectiveSpec

HOME = Path.home() / ".modkernel"


def training_parser(description: str) -> argparse.ArgumentParser:
    """A parser of the data's place, the width and how long to train."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--path", help="folder of an image_folder")
    parser.add_argument("--data-root", type=Path, default=HOME / "data")
    parser.add_argument("--cache", type=Path, default=HOME / "cache")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.4)
    return parser


def objective_of(given: str) -> ObjectiveSpec:
    """The objective that is given as `NAME` or `NAME@TEMPERATURE`."""
    name, _, temperature = given.partition("@")
    return ObjectiveSpec(name=name, temperature=float(temperature) if temperature else None)

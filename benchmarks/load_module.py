"""Load, verify and assemble a stored module of 45 MB, against a bare safetensors load, in one run.

    python -m benchmarks.load_module

Ours is `registry.modules.fetch`, which hashes both files, and `assemble`, which hashes again the
bytes that it loads. The bare load is what one writes by hand for a usable module: make the same
nn.Module, `load_state_dict(load_file(path))`, `eval()`; nothing is checked. (`load_file` alone maps
the file and reads nothing.) Prints the medians and their ratio; and, since much of the bare load is
the making of the module, an expert's load that makes it on the meta device and copies the tensors.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.setting import report_of, temporary_home, write_resnet
from modkernel.backbones import blocks_of, output_shape
from modkernel.modules.network import assemble
from modkernel.modules.stored import WEIGHTS_FILE
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import HiddenModuleSpec

Load = Callable[[], nn.Module]


def maker(spec: HiddenModuleSpec) -> Load:
    """How one makes the network by hand: its blocks one after the other, no shape is checked."""
    takes, steps = spec.interface.takes, []
    for block in blocks_of(spec.backbone):
        steps.append((block.name.replace(".", "_"), block.build, takes))
        takes = output_shape(block.build(takes), takes)
    return lambda: nn.Sequential(OrderedDict((name, build(shape)) for name, build, shape in steps))


def loads(registry: Registry, record: ModuleRecord) -> dict[str, Load]:
    """The three ways, on the same file."""
    assert isinstance(record.spec, HiddenModuleSpec)
    make, path = maker(record.spec), registry.modules.fetch(record).folder / WEIGHTS_FILE

    def ours() -> nn.Module:
        return assemble([registry.modules.fetch(record)])

    def bare() -> nn.Module:
        module = make()
        module.load_state_dict(load_file(path))
        return module.eval()

    def expert() -> nn.Module:
        with torch.device("meta"):
            module = make()
        weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
        module.load_state_dict(weights, assign=True)
        return module.eval()

    return {"ours": ours, "bare": bare, "expert": expert}


def seconds_of(load: Load) -> float:
    """Seconds of one load; what it gives is dropped before the next."""
    began = time.perf_counter()
    module = load()
    seconds = time.perf_counter() - began
    assert all(not tensor.is_meta for tensor in module.state_dict().values())
    return seconds


def main() -> None:
    """Take turns after a warm-up, and print the medians; the first fetch copies the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with temporary_home() as settings, Registry.open(settings) as registry:
        with tempfile.TemporaryDirectory(dir=settings.home) as folder:
            stored = write_resnet(Path(folder, "result"), seed=0)
            report = report_of(stored.spec)
            record = registry.modules.store(stored.folder, name="benchmark.hidden-1", report=report)
        began = time.perf_counter()
        registry.modules.fetch(record)
        first = time.perf_counter() - began
        ways = loads(registry, record)
        for load in ways.values():
            load()
        turns = [
            {name: seconds_of(load) for name, load in ways.items()} for _ in range(given.rounds)
        ]
        ours, bare, expert = (statistics.median(turn[name] for turn in turns) for name in ways)
    print(f"module                    {record.size_bytes / 1e6:.1f} MB")
    print(f"first fetch (copies)      {first:.3f} s")
    print(f"load, verify, assemble    {ours:.3f} s")
    print(f"bare safetensors load     {bare:.3f} s")
    print(f"ratio                     {ours / bare:.2f}")
    print(f"expert's unverified load  {expert:.3f} s (ratio {ours / expert:.2f})")


if __name__ == "__main__":
    main()

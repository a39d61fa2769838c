"""Markdown of what `benchmarks/gpu.sh` found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LOOPS = {
    "weak": "weak: float32, DataLoader",
    "strong": "strong: bfloat16, channels-last, all on the device",
    "train_hidden eager": "`train_hidden`, kernel by kernel",
    "train_hidden graph": "`train_hidden`, steps replayed",
}


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report; steps that did not run or gave no figures are told as such."""
    steps = document["steps"]
    parts = [_head(document), _steps(steps)]
    for name, part in (("speed", _speed), ("paper", _paper)):
        result = steps.get(name, {}).get("result")
        if result:
            parts.append(part(result))
    for name, step in steps.items():
        if step["status"] != "passed" and step["tail"]:
            parts.append(f"## Last lines of {name}\n\n```\n" + "\n".join(step["tail"]) + "\n```")
    return "\n\n".join(parts) + "\n"


def _head(document: Mapping[str, Any]) -> str:
    facts = document["steps"].get("facts", {}).get("result") or {}
    packages = facts.get("packages", {})
    driver = facts.get("driver", {}).get("driver_version", "unknown")
    title = "# On a GPU\n\n" if not document["tiny"] else "# A tiny run: no figure counts\n\n"
    return title + (
        f"Card: {facts.get('card', 'unknown')} (driver {driver}). "
        f"{facts.get('cpu_count', '?')} CPU cores, Python {facts.get('python', '?')}, "
        f"torch {packages.get('torch', '?')}. {document['date']}."
    )


def _steps(steps: Mapping[str, Any]) -> str:
    rows = []
    for name, step in steps.items():
        said = step["status"]
        if name == "tests" and step["result"]:
            counts = step["result"]
            said += ": " + ", ".join(
                f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped")
            )
        rows.append((name, said, f"{step['seconds']:.0f}"))
    return _table(("step", "result", "seconds"), rows)


def _speed(result: Mapping[str, Any]) -> str:
    peak, operations = result["bfloat16_peak"], result["operations_per_image"]
    rows = []
    for found in result["batches"]:
        mine = found["images_per_second"]["train_hidden graph"]
        for name, images in found["images_per_second"].items():
            rows.append(
                (
                    str(found["batch"]),
                    LOOPS[name],
                    f"{images:,.0f}",
                    f"{1000 * found['batch'] / images:.2f}",
                    f"{images * operations / peak:.1%}" if peak else "",
                    f"{mine / images:.2f}",
                )
            )
    table = _table(
        ("batch", "loop", "images/s", "ms a step", "of peak", "`train_hidden` is faster by"), rows
    )
    measured = f"Measured bfloat16 peak: {peak / 1e12:.1f} TFLOP/s. " if peak else ""
    return (
        f"## Training speed: ResNet-18 of width {result['width']}, 32 × 32 images\n\n{measured}"
        f"{operations / 1e9:.2f} billion operations an image and step; medians of "
        f"{result['rounds']} rounds of {result['steps']} steps; the DataLoader has "
        f"{result['workers']} workers.\n\n{table}"
    )


def _paper(result: Mapping[str, Any]) -> str:
    """One row a figure; what a step that was cut off had not reached is left out."""

    def share(name: str) -> str | None:
        return f"{result[name]:.2%}" if name in result else None

    def gib(name: str) -> str | None:
        return f"{result[name] / 2**30:.2f} GiB" if result.get(name) else None

    def seconds(name: str) -> str | None:
        return f"{result[name]:.1f} s" if name in result else None

    setting = ", ".join(f"{k} {v}" for k, v in result.get("setting", {}).items())
    history = result.get("history", [])
    rows = [
        ("data", result.get("data")),
        ("setting", setting or None),
        ("epochs done / planned", f"{len(history)} / {result.get('epochs', '?')}"),
        ("seconds an epoch", seconds("calibrated_epoch_seconds")),
        ("hidden module, training", seconds("hidden_seconds")),
        (
            "images a second",
            f"{result['images_per_second']:,.0f}" if "images_per_second" in result else None,
        ),
        ("output modules, training and testing", seconds("output_seconds")),
        ("test accuracy, all labels", share("accuracy_all_labels")),
        (f"test accuracy, {result.get('labels', '?')} labels: mean", share("accuracy_mean")),
        (f"least of {result.get('draws', '?')} draws", share("accuracy_min")),
        (f"most of {result.get('draws', '?')} draws", share("accuracy_max")),
        ("peak GPU memory", gib("peak_gpu_memory_bytes")),
        ("peak memory of the process", gib("peak_memory_bytes")),
    ]
    table = _table(("", ""), [(name, value) for name, value in rows if value is not None])
    return "## The paper's setting: ResNet-18 as one hidden module and an output module\n\n" + table


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

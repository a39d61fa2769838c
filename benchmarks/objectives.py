"""Which proxy objective is best at equal budget: one hidden module each, everything else equal.

    python -m benchmarks.objectives --dataset fashion_mnist --data-root ~/.modkernel/data
    python -m benchmarks.objectives --dataset image_folder --path cifar10-jpeg --crop 4 \\
        --seeds 0 1 2 --jobs 8 --output objectives

Prints a Markdown table: test accuracy of an output module on all labels, and on one label per
class (mean and minimum over random draws), means over the seeds, and the end-to-end baseline with
the same recipe. Each objective and seed is a process of its own, `--jobs` of them at once; each is
one line of JSON in OUTPUT/rows.jsonl as soon as it is ready, and OUTPUT/table.md is the table so
far. A row is `NAME`, or `NAME@TEMPERATURE`, or `end_to_end`; more options of a recipe follow after
commas: `anchor_contrastive@0.2,weight_decay=0.001,projection=128`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.arguments import objective_of, training_parser
from modkernel.data import DataPlaces, load_dataset, place_dataset
from modkernel.modules.stored import write_module
from modkernel.plan import facts, output_spec, plan_network
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.system.precision import choose_arithmetic
from modkernel.training import train_end_to_end, train_hidden, train_output
from modkernel.training.inputs import class_pairs, labelled_data

ROWS = (
    "raw",
    "nmse",
    "alignment",
    "upper_alignment",
    "contrastive",
    "log_contrastive",
    "pair_correlation",
    "anchor_contrastive",
    "group_contrastive",
    "end_to_end",
)
BASELINE = "end_to_end"


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = training_parser(__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--objectives", nargs="*", default=ROWS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="folder of the rows and the table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def network(given: argparse.Namespace, row: str, seed: int) -> NetworkSpec:
    """The network that every row trains, with what the row says of it."""
    named, *changes = row.split(",")
    options = dict(change.split("=", 1) for change in changes)
    projection = options.pop("projection", None)
    recipe = Recipe.model_validate(
        {
            "epochs": given.epochs,
            "batch_size": given.batch,
            "learning_rate": given.learning_rate,
            "crop_padding": given.crop,
            "flip": True,
        }
        | {key: json.loads(value) for key, value in options.items()}
    )
    objective = ObjectiveSpec() if named == BASELINE else objective_of(named)
    hidden = HiddenSpec(
        objective=objective,
        projection=None if projection is None else int(projection),
        recipe=recipe,
    )
    return NetworkSpec(
        name="objectives",
        dataset=DatasetSpec(name=given.dataset, path=given.path),
        backbone=BackboneSpec(name=given.backbone, width=given.width),
        hidden=(hidden,),
        output=OutputSpec(labels_per_class=1, draws=given.draws),
        seed=seed,
    )


def train(given: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    """Train the hidden module and the output module, or the baseline, and evaluate."""
    spec, arithmetic = network(given, row, seed), choose_arithmetic()
    data = load_dataset(spec.dataset, DataPlaces(root=given.data_root, cache=given.cache))
    data, info = place_dataset(data, arithmetic.device), data.info()
    found: dict[str, Any] = {"row": row, "seed": seed}
    if row.startswith(BASELINE):
        report = train_end_to_end(spec, data, arithmetic=arithmetic)
        assert report.evaluation is not None
        return found | {"seconds": report.seconds, "all_labels": report.evaluation.accuracy}
    (plan,) = plan_network(spec, info)
    hidden = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), spec.seed)
    assert spec.output is not None
    weights, report = train_hidden(hidden, *class_pairs(data), arithmetic=arithmetic)
    with tempfile.TemporaryDirectory() as folder:
        stored = write_module(Path(folder, "hidden"), hidden, weights)
        _, output = train_output(
            output_spec(spec.output, hidden, stored.id, info, spec.seed),
            *labelled_data(data)[:2],
            [stored],
            arithmetic=arithmetic,
        )
    assert output.evaluation is not None
    return found | {
        "seconds": report.seconds,
        "all_labels": output.evaluation.accuracy_all_labels,
        "mean": output.evaluation.accuracy_mean,
        "least": output.evaluation.accuracy_min,
    }


def in_process(row: str, seed: int) -> dict[str, Any]:
    """One of them in a process of its own, with this command's other options."""
    own = ("--one", json.dumps([row, seed]))
    command = (sys.executable, "-m", "benchmarks.objectives", *sys.argv[1:], *own)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"row": row, "seed": seed, "failed": done.stderr.strip()[-300:]}
    known: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return known


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds that are ready."""
    lines = [
        "| objective | seeds | all labels | 1 label a class: mean | least | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["row"] for row in rows):
        ready = [row for row in rows if row["row"] == name and "failed" not in row]

        def mean(key: str, of: list[dict[str, Any]] = ready) -> str:
            values = [row[key] for row in of if key in row]
            return f"{statistics.mean(values):.2%}" if values else ""

        seconds = f"{statistics.mean(r['seconds'] for r in ready):.0f}" if ready else "failed"
        figures = (mean("all_labels"), mean("mean"), mean("least"), seconds)
        lines.append(f"| `{name}` | {len(ready)} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows, and print the table."""
    given = arguments()
    if given.one:
        print(json.dumps(train(given, *json.loads(given.one))))
        return
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        wanted = [(row, seed) for seed in given.seeds for row in given.objectives]
        for done in as_completed([pool.submit(in_process, *each) for each in wanted]):
            rows.append(done.result())
            print(json.dumps(rows[-1]), flush=True)
            if given.output is not None:
                given.output.mkdir(parents=True, exist_ok=True)
                with (given.output / "rows.jsonl").open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                (given.output / "table.md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

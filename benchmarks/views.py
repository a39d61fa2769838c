"""Hidden modules trained on views, without a label: linear accuracy, and ten labels in all.

    python -m benchmarks.views --dataset fashion_mnist --data-root ~/.modkernel/data
    python -m benchmarks.views --dataset image_folder --path cifar10-jpeg --width 32 --epochs 60

Rows: raw pixels, untrained modules, modules trained on views, and modules trained on the pairs of
all labels. Columns: ridge and cross-entropy output modules on all labels; then, of ten labels, what
`labels suggest` chooses (mean and least over seeds of the suggestion), as many drawn at random, and
one drawn of each class, the same ones in every row; on the views' choice of examples also the raw
pixels, since then only the features differ. Each also with `spread_labels`.

Each row is appended to `--results` as it is known, as JSON; the table is printed after each, and
with `--show` of a file alone. It takes torch and pydantic alone, and scikit-learn for the choice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.arguments import training_parser
from modkernel.backbones import build_hidden
from modkernel.control import Control
from modkernel.data import DataPlaces, Dataset, load_dataset, place_dataset
from modkernel.data.label_budget import draw_labels
from modkernel.errors import DataError, ModkernelError, StoppedError
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain, make_extractor
from modkernel.kernels import unit_rows
from modkernel.modules.stored import StoredModule, write_module
from modkernel.plan import plan_network
from modkernel.reuse.label_choice import suggest_labels
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Projection,
    Recipe,
)
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.system.seeding import generator_for
from modkernel.training import train_hidden
from modkernel.training.heads import fit_heads, predict_heads
from modkernel.training.inputs import pair_data
from modkernel.training.label_spreading import candidates, spread_labels

ROWS = ("pixels", "random", "views", "labels")
"""What the output module stands on."""
BUDGET = 10
Features = tuple[Tensor, Tensor]
"""φ of the training part and of the test part, on the CPU."""


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = training_parser(__doc__.splitlines()[0])
    parser.set_defaults(epochs=30, learning_rate=0.2)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--modules", type=int, default=1, help="hidden modules, in turn")
    parser.add_argument("--batch", type=int, default=512, help="examples a step, two views each")
    parser.add_argument("--temperature", type=float, help="of views; the default if left out")
    parser.add_argument("--projection", type=int, help="units of a tail that is thrown away")
    parser.add_argument("--draws", type=int, default=20, help="seeds of the choice, and draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--seconds", type=float, help="training that takes longer ends its row")
    parser.add_argument("--results", type=Path, default=Path("views.jsonl"))
    parser.add_argument("--show", action="store_true", help="print the table of --results alone")
    return parser.parse_args()


def network(given: argparse.Namespace, pairs: str | None) -> NetworkSpec:
    """The network of a row; views of grey and of colour images alike are mirrored."""
    temperature = given.temperature if pairs == "views" else None
    hidden = HiddenSpec(
        tail="auto" if given.projection is None else Projection(projection=given.projection),
        objective=ObjectiveSpec(temperature=temperature),
        recipe=Recipe(
            epochs=given.epochs,
            batch_size=given.batch,
            learning_rate=given.learning_rate,
            flip=True,
        ),
    )
    return NetworkSpec(
        name="views",
        dataset=DatasetSpec(name=given.dataset, path=given.path),
        backbone=BackboneSpec(
            name=given.backbone, width=None if given.backbone == "lenet5" else given.width
        ),
        hidden=(hidden,) * given.modules,
        pairs=pairs,
        seed=given.seed,
    )


def chain_of(
    row: str,
    given: argparse.Namespace,
    data: Dataset,
    places: DataPlaces,
    arithmetic: Arithmetic,
    folder: Path,
) -> tuple[list[StoredModule], dict[str, Any]]:
    """Train a row's hidden modules, or leave them untrained; and what that took."""
    spec = network(given, "views" if row == "views" else None)
    train, validation, known = pair_data(data, spec.dataset, spec.pairs, places)
    chain: list[StoredModule] = []
    began, seconds, epochs = time.perf_counter(), 0.0, []
    for number, plan in enumerate(plan_network(spec, data.info())):
        upstream = chain[-1].id if chain else data.preprocessing.id
        module = plan.spec(upstream, data.preprocessing, known, spec.seed)
        if row == "random":
            untrained = build_hidden(plan.backbone, plan.blocks, plan.takes, spec.seed)
            weights = {name: value.contiguous() for name, value in untrained.state_dict().items()}
        else:
            control = Control(
                progress=lambda event: print(json.dumps(event), flush=True),
                stop=lambda: (
                    given.seconds is not None and time.perf_counter() - began > given.seconds
                ),
            )
            weights, report = train_hidden(
                module, train, validation, chain, arithmetic=arithmetic, control=control
            )
            seconds += report.seconds
            epochs.append(report.best_epoch)
        chain.append(write_module(folder / f"{row}-{number}", module, weights))
    return chain, {"training_seconds": round(seconds, 1), "best_epochs": epochs}


def features(chain: list[StoredModule], data: Dataset, arithmetic: Arithmetic) -> Features:
    """Unit features of the last module's kernel."""
    placed = arithmetic.place(frozen_chain(chain))
    examples = data.train.examples
    extractor = make_extractor(placed, chain[-1].spec.interface.kernel, examples, 0, arithmetic)
    train, test = (
        compute_features(extractor, images, arithmetic).values.float().cpu()
        for images in (examples, data.test.examples)
    )
    return train, test


def pixels(data: Dataset) -> Features:
    """Normalised pixels as rows of unit length."""
    shape = (-1, *(1,) * (len(data.preprocessing.shape) - 1))
    mean, std = (
        torch.tensor(values).view(shape)
        for values in (data.preprocessing.mean, data.preprocessing.std)
    )
    scale = 255 if data.preprocessing.dtype == "uint8" else 1

    def rows(images: Any) -> Tensor:
        raw = images.batch(torch.arange(len(images))).cpu().float()
        return unit_rows(((raw / scale - mean) / std).flatten(1))

    return rows(data.train.examples), rows(data.test.examples)


Accuracies = Callable[[Tensor, str, bool], Tensor]
"""Test accuracies [D] of output modules on labels of rows [D, n], by a method, spread or not."""


def tester(phi: Features, data: Dataset, device: torch.device) -> Accuracies:
    """How well output modules do on features."""
    labels, truth = data.train.labels, data.test.labels
    if labels is None or truth is None:
        raise DataError("This benchmark tells accuracy, which needs class labels and a test part.")
    train, test = (part.to(device) for part in phi)
    known, tested = labels.to(device), truth.to(device)

    def accuracies(chosen: Tensor, method: str, spread: bool) -> Tensor:
        spec, given, rows = OutputSpec.model_validate({"method": method}), known, chosen
        if spread:
            order = candidates(len(train), chosen.shape[1], 0).to(device)
            found = spread_labels(train, known, chosen.to(device), order, len(data.classes))
            given, rows = found.labels, found.rows
        fit = fit_heads(train, given, rows, len(data.classes), spec, 0)
        return (predict_heads(fit, test) == tested).double().mean(1).cpu()

    return accuracies


def few_labels(name: str, chosen: Tensor, accuracies: Accuracies) -> dict[str, float]:
    """Mean and least accuracy over choices [D, 10] of labels, by cross-entropy; also spread."""
    figures: dict[str, float] = {}
    for title, spread in ((name, False), (f"{name}_spread", True)):
        found = accuracies(chosen, "cross_entropy", spread)
        figures |= {f"{title}_mean": float(found.mean()), f"{title}_least": float(found.min())}
    return figures


def measured(row: str, phi: Features, data: Dataset, draws: int, arithmetic: Arithmetic) -> Any:
    """All figures of a row, and the examples that were suggested for it."""
    accuracies = tester(phi, data, arithmetic.device)
    every = torch.arange(len(phi[0]))[None]
    found = {
        "row": row,
        "features": phi[0].shape[1],
        "ridge": accuracies(every, "ridge", False).item(),
        "cross_entropy": accuracies(every, "cross_entropy", False).item(),
    }
    suggested = torch.stack([suggest_labels(phi[0], BUDGET, seed) for seed in range(draws)])
    found |= few_labels("suggested", suggested, accuracies)
    random = torch.stack(
        [
            torch.randperm(len(phi[0]), generator=generator_for("random labels", draw))[:BUDGET]
            for draw in range(draws)
        ]
    )
    assert data.train.labels is not None
    each = draw_labels(data.train.labels.cpu(), len(data.classes), 1, draws, 0)
    found |= few_labels("random", random, accuracies) | few_labels("each", each, accuracies)
    return found, suggested


COLUMNS = {
    "ridge": "all labels, ridge",
    "cross_entropy": "cross-entropy",
    "suggested_mean": "10 suggested, mean",
    "suggested_least": "least",
    "suggested_spread_mean": "the same, spread, mean",
    "random_mean": "10 random, mean",
    "random_least": "least",
    "random_spread_mean": "the same, spread, mean",
    "each_mean": "1 a class, mean",
    "each_least": "least",
    "each_spread_mean": "the same, spread, mean",
    "each_spread_least": "least",
    "same_mean": "pixels on the 10 suggested, mean",
    "same_spread_mean": "the same, spread, mean",
    "training_seconds": "training, s",
}
NAMES = {
    "pixels": "raw pixels",
    "random": "untrained modules",
    "views": "modules on views (no label)",
    "labels": "modules on the pairs of all labels",
}


def table(path: Path) -> str:
    """The rows of a file of results, as Markdown; the last one of each kind."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = {found["row"]: found for found in map(json.loads, lines)}
    shown = [f"| | {' | '.join(COLUMNS.values())} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    for row, name in NAMES.items():
        found = rows.get(row)
        if found is None:
            continue
        cells = [found.get("error", name) if "error" in found else name]
        for key in COLUMNS:
            value = found.get(key)
            if value is None:
                cells.append("")
            else:
                cells.append(f"{value:.0f}" if key.endswith("seconds") else f"{value:.2%}")
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def main() -> None:
    """Work through the rows; one that fails is told and leaves the others alone."""
    given = arguments()
    if given.show:
        print(table(given.results))
        return
    places = DataPlaces(root=given.data_root, cache=given.cache)
    arithmetic = choose_arithmetic(given.device)
    data = load_dataset(network(given, None).dataset, places)
    raw = pixels(data)
    data = place_dataset(data, arithmetic.device)
    setting = {name: str(value) for name, value in vars(given).items()}
    with tempfile.TemporaryDirectory() as folder:
        for row in given.rows:
            began = time.perf_counter()
            took: dict[str, Any] = {}
            try:
                phi = raw
                if row != "pixels":
                    chain, took = chain_of(row, given, data, places, arithmetic, Path(folder))
                    phi = features(chain, data, arithmetic)
                found, suggested = measured(row, phi, data, given.draws, arithmetic)
                if row != "pixels":
                    found |= few_labels("same", suggested, tester(raw, data, arithmetic.device))
            except (ModkernelError, RuntimeError) as error:
                reason = "ran out of --seconds" if isinstance(error, StoppedError) else str(error)
                found = {"row": row, "error": f"{NAMES[row]}: {reason}"}
            found |= took | {"seconds": round(time.perf_counter() - began, 1), "setting": setting}
            found["device"] = f"{arithmetic.device} {arithmetic.name}"
            with given.results.open("a") as out:
                out.write(json.dumps(found) + "\n")
            print(table(given.results), flush=True)


if __name__ == "__main__":
    main()

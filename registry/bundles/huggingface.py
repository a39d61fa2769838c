"""A network as a folder in Hugging Face's style: weights, `config.json` and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from modkernel.errors import BundleError
from modkernel.lookup import import_paths, is_import_path, trusting
from modkernel.modules.imported import ELSEWHERE
from modkernel.modules.network import Network, assemble
from modkernel.registry.bundles.licences import Licences, differing, licences_of
from modkernel.registry.bundles.write import chain_of, resolve
from modkernel.registry.records import ModuleRecord, NetworkRecord
from modkernel.registry.registry import Registry
from modkernel.registry.tracking.cards import sentence
from modkernel.registry.tracking.markdown import plain
from modkernel.system.files import write_new, written_whole
from modkernel.training.report import OutputEvaluation

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
OWN_FILES = ("arrays", "huggingface", "image_folder", "table")
"""Data sets that say nothing but how files are read."""


def export_huggingface(registry: Registry, reference: str, folder: Path) -> None:
    """Write a network, or a module with those that it stands on, as a folder.

    It has the weights in one file, each module's under the prefix that `config.json` names. A
    license is for its owner to add, but for that of weights from elsewhere.

    Args:
        registry: has it.
        reference: a module's or a network's, as of `export_bundle`.
        folder: made; it may be there, if it is empty.

    Raises:
        NotFoundError, AmbiguousError: no module or network answers to it, or several do.
        ArtifactError: bytes are missing or altered in the registry.
        SpecError: a module names code of a package that is not trusted.
        BundleError: the folder has something in it, or cannot be written.
    """
    found = resolve(registry, reference)
    chain = chain_of(registry, found)
    stored = [registry.modules.fetch(record) for record in chain]
    with trusting(registry.settings.trusted_packages):
        network = assemble(stored)
    evaluation = _evaluation(registry, found, chain)
    config = config_of(network, chain, found)
    tensors = {name: tensor.contiguous() for name, tensor in sorted(network.state_dict().items())}
    files = {
        # What transformers looks for before it reads a file.
        WEIGHTS: save(tensors, {"format": "pt"}),
        CONFIG: f"{json.dumps(config, indent=2)}\n".encode(),
        CARD: card_of(
            network, chain, found, evaluation, licences_of(registry.backends.database, chain)
        ).encode(),
    }
    try:
        with written_whole(folder, durable=True) as temporary:
            temporary.mkdir()
            for name, content in files.items():
                write_new(temporary / name, content)
    except OSError as error:
        raise BundleError(
            f"Cannot write {folder}: {error.strerror or error}. Name a folder that is not there "
            "yet or is empty, on a disk with room."
        ) from error


def config_of(
    network: Network, chain: Sequence[ModuleRecord], found: ModuleRecord | NetworkRecord
) -> dict[str, Any]:
    """What `config.json` says: how raw examples are prepared, and of what modules it is made.

    `preprocessing` is left out where modules side by side have several: each has its own in its
    `spec`, as all modules have.
    """
    classes = network.classes or ()
    first, *others = {one.spec.preprocessing.id: one.spec.preprocessing for one in chain}.values()
    return {
        "model_type": "modkernel",
        "architectures": ["ModkernelNetwork"],
        "name": found.name,
        "modkernel_id": found.id,
        **({} if others else {"preprocessing": first.model_dump(mode="json")}),
        "modules": [
            {
                "prefix": prefix,
                "id": record.id,
                "name": record.name,
                "weights_sha256": record.weights_sha256,
                "spec": record.spec.model_dump(mode="json"),
            }
            for prefix, record in zip(_prefixes(chain), chain, strict=True)
        ],
        **(
            {
                "id2label": {str(number): name for number, name in enumerate(classes)},
                "label2id": {name: number for number, name in enumerate(classes)},
            }
            if classes
            else {}
        ),
    }


def card_of(
    network: Network,
    chain: Sequence[ModuleRecord],
    found: ModuleRecord | NetworkRecord,
    evaluation: OutputEvaluation | None,
    licences: Licences,
) -> str:
    """The model card: metadata that the Hub reads, then what a person wants to know."""
    spec = chain[-1].spec
    data = spec.dataset
    known = data.name not in OWN_FILES and not is_import_path(data.name) and data != ELSEWHERE
    is_image = len(chain[0].spec.preprocessing.shape) == 3
    task = f"{'image' if is_image else 'tabular'}-classification"
    metadata: dict[str, Any] = {
        "library_name": "modkernel",
        "tags": ["modkernel", "modular-training", *(["resnet"] if _is_resnet(chain) else [])],
    }
    names = differing(licences)
    if len(names) == 1:
        metadata["license"] = names[0]
    elif names:
        # The Hub's form for what has no name in its list.
        metadata |= {"license": "other", "license_name": " AND ".join(names)}
    if network.classes:
        metadata["pipeline_tag"] = task
    if known:
        metadata["datasets"] = [data.name]
    if evaluation is not None:
        metadata["metrics"] = ["accuracy"]
        metadata["model-index"] = [
            {
                "name": found.name,
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"type": data.name, "name": data.name, "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "value": evaluation.accuracy},
                            {
                                "type": "balanced_accuracy",
                                "name": "Balanced accuracy",
                                "value": evaluation.balanced_accuracy,
                            },
                        ],
                    }
                ],
            }
        ]
    # Each value as JSON, which YAML takes as it is.
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in metadata.items())
    return f"---\n{head}---\n\n" + "\n".join(_text(chain, found, evaluation, licences))


def _text(
    chain: Sequence[ModuleRecord],
    found: ModuleRecord | NetworkRecord,
    evaluation: OutputEvaluation | None,
    licences: Licences,
) -> Iterator[str]:
    data, preprocessing = chain[-1].spec.dataset, chain[0].spec.preprocessing
    yield f"# {plain(found.name)}\n"
    yield (
        f"{len(chain)} modules, each trained by itself on the ones before it and frozen, with "
        f"modkernel (id `{found.id}`).\n"
    )
    yield "| prefix in `model.safetensors` | module | id |\n|---|---|---|"
    for prefix, record in zip(_prefixes(chain), chain, strict=True):
        yield f"| `{prefix}` | {sentence(record.name, record.spec)} | `{record.short_id}` |"
    if licences:
        yield "\n## Licences\n"
        yield "| with weights that were trained elsewhere | licence of these |\n|---|---|"
        for record, names in licences:
            yield f"| {plain(record.name)} | {', '.join(map(plain, names))} |"
    yield "\n## Data\n"
    if data == ELSEWHERE:
        yield "It is not known what the network was trained on.\n"
    else:
        yield f"{plain(data.name)}, fingerprint `{data.fingerprint}`, {len(data.classes)} classes: "
        yield f"{', '.join(map(plain, data.classes))}.\n"
    if evaluation is not None:
        yield "## Evaluation\n"
        yield "| on the test part | |\n|---|---|"
        yield f"| accuracy | {evaluation.accuracy:.4f} |"
        yield f"| balanced accuracy | {evaluation.balanced_accuracy:.4f} |"
        yield f"| worst class | {plain(evaluation.worst_class.text)} |\n"
        if evaluation.remarks:
            yield f"{plain(evaluation.remarks)}\n"
    yield "## Use\n"
    shape = ", ".join(map(str, preprocessing.shape))
    told = preprocessing.reading.told
    read = f" Before that, when picture files are read, {told}." if told else ""
    yield f"It takes {preprocessing.dtype} batches of shape [N, {shape}]. "
    yield f"{_normalised(chain)}{read}\n"
    yield "```python\nfrom safetensors.torch import load_file\n"
    yield 'weights = load_file("model.safetensors")'
    first = _prefixes(chain)[0]
    yield f'first = {{k.removeprefix("{first}"): v for k, v in weights.items() '
    yield f'         if k.startswith("{first}")}}\n```'
    code = sorted({path for record in chain for path in import_paths(record.spec)})
    if code:
        yield f"\nIts modules need code from outside: {', '.join(f'`{path}`' for path in code)}."
    yield ""


def _prefixes(chain: Sequence[ModuleRecord]) -> list[str]:
    """What the names of each module's weights begin with."""
    return [
        "output." if record.kind == "output" else f"hidden.{position}."
        for position, record in enumerate(chain)
    ]


def _normalised(chain: Sequence[ModuleRecord]) -> str:
    """What says how raw examples are normalised."""
    if len({record.spec.preprocessing.id for record in chain}) == 1:
        return "`preprocessing` in `config.json` says how to normalise them."
    names = [
        f"`{prefix}`"
        for prefix, record in zip(_prefixes(chain), chain, strict=True)
        if record.spec.interface.stands_on == (record.spec.preprocessing.id,)
    ]
    return (
        f"Each of {', '.join(names)} takes them normalised in a way of its own: `preprocessing` of "
        "its `spec` in `config.json`."
    )


def _is_resnet(chain: Sequence[ModuleRecord]) -> bool:
    spec = chain[0].spec
    return spec.kind != "output" and spec.backbone.name.startswith("resnet")


def _evaluation(
    registry: Registry, found: ModuleRecord | NetworkRecord, chain: Sequence[ModuleRecord]
) -> OutputEvaluation | None:
    if isinstance(found, NetworkRecord):
        return found.evaluation
    return registry.modules.report(chain[-1]).evaluation

"""A network as a folder in Hugging Face's style, which plain torch code reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

from modkernel.errors import BundleError
from modkernel.modules.imported import ELSEWHERE
from modkernel.registry import Registry, Settings
from modkernel.registry.bundles.elsewhere import Images, import_network
from modkernel.registry.bundles.huggingface import export_huggingface
from modkernel.registry.bundles.licences import licences_of
from modkernel.spec import DatasetFacts, ImageReading
from tests.modkernel.helpers.stored_examples import (
    FACTS,
    PREPROCESSING,
    store_hidden,
    store_joined_output,
)
from tests.modkernel.test_imported import TINY
from tests.registry.helpers.examples import EVALUATION, Examples, store_one
from tests.registry.helpers.mixed import trusting_settings

EPS = 1e-5


def batch_norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=EPS)


@pytest.mark.home("bundle")
def test_plain_torch_code_computes_the_same(registry: Registry, tmp_path: Path) -> None:
    made, folder = registry.networks.resolve("net"), tmp_path / "hub"
    export_huggingface(registry, "net", folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    stem, block, output = (
        {
            name.removeprefix(module["prefix"]): tensor
            for name, tensor in weights.items()
            if name.startswith(module["prefix"])
        }
        for module in config["modules"]
    )
    mean, std = (config["preprocessing"][name][0] for name in ("mean", "std"))
    x = (images.float() / 255 - mean) / std
    x = batch_norm(F.conv2d(x, stem["stem.conv.weight"], padding=1), stem, "stem.bn")
    u, name = x.relu(), "layer1_0.body"
    y = F.conv2d(u, block[f"{name}.conv1.weight"], padding=1)
    y = batch_norm(y, block, f"{name}.bn1").relu()
    y = F.conv2d(y, block[f"{name}.conv2.weight"], padding=1)
    features = (batch_norm(y, block, f"{name}.bn2") + u).relu().mean(dim=(2, 3))
    logits = F.linear(F.normalize(features), output["weight"], output["bias"])
    ours = registry.networks.load(made)
    assert torch.allclose(logits, ours(images), atol=1e-5)
    assert config["id2label"] == {"0": "0", "1": "1", "2": "2"}


@pytest.mark.home("bundle")
def test_the_card_has_what_the_hub_reads(registry: Registry, tmp_path: Path) -> None:
    export_huggingface(registry, "net", tmp_path / "hub")
    _, head, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert "license" not in metadata
    assert metadata["datasets"] == ["digits"]
    assert metadata["pipeline_tag"] == "image-classification"
    result = metadata["model-index"][0]["results"][0]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == EVALUATION.accuracy
    assert result["dataset"]["name"] == "digits"
    assert "| `hidden.1.` | Hidden module net.hidden-2: layer1.0 of resnet18" in text
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('"model.safetensors"', repr(str(tmp_path / "hub/model.safetensors"))), names)
    assert "stem.conv.weight" in names["first"]


def card(registry: Registry, reference: str, folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata and the text of a model card."""
    export_huggingface(registry, reference, folder)
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.mark.home("mixed")
def test_weights_from_elsewhere_keep_their_licences_and_each_chain_its_preprocessing(
    settings: Settings, examples: Examples, tmp_path: Path
) -> None:
    with Registry.open(trusting_settings(settings)) as registry:
        metadata, text = card(registry, "own.stitch", tmp_path / "stitch-hub")
        assert metadata["license"] == "mit", "of what it has a copy of"
        assert "| own.stitch | mit |" in text
        far = import_network(
            registry,
            TINY.name,
            "other",
            ("stem", "mean"),
            weights=examples.folder / "tiny.safetensors",
            licence="CC-BY-NC-4.0",
            images=Images((8, 8), (0.1,), (0.9,)),
        ).modules[0]
        below = (registry.modules.resolve("far.hidden-1"), far)
        stored = [registry.modules.fetch(record) for record in below]
        output, _ = store_joined_output(tmp_path / "both", stored)
        last = store_one(registry, output, "both.output")
        metadata, text = card(registry, last.id, tmp_path / "both-hub")
        assert (metadata["license"], metadata["license_name"]) == ("other", "mit AND CC-BY-NC-4.0")
        assert "| far.hidden-1 | mit |\n| other.hidden-1 | CC-BY-NC-4.0 |" in text
        assert "Each of `hidden.0.`, `hidden.1.` takes them normalised in a way of its own" in text
        config = json.loads((tmp_path / "both-hub" / "config.json").read_text())
        assert "preprocessing" not in config
        means = [module["spec"]["preprocessing"]["mean"] for module in config["modules"]]
        assert means[:2] == [[0.5], [0.1]]

        own = registry.modules.resolve("own.hidden-1")
        assert own.spec.kind == "hidden"
        hidden, spec = own.spec.hidden, own.spec

        def from_weights(start_from: str, *data: DatasetFacts) -> list[tuple[str, ...]]:
            changes = {"hidden": hidden.changed(start_from=start_from), "source_data": data}
            adapted = own.model_copy(update={"spec": spec.changed(**changes, source="it")})
            found = licences_of(registry.backends.database, [own, adapted])
            return [licences for _, licences in found]

        assert from_weights(far.id, ELSEWHERE) == [("CC-BY-NC-4.0",)]
        assert from_weights("f" * 64, ELSEWHERE) == [("unknown",)], "it was deleted"
        assert from_weights(own.id, FACTS) == from_weights("f" * 64, FACTS) == []


def test_the_card_says_how_pictures_of_more_than_eight_bits_are_read(
    registry: Registry, tmp_path: Path
) -> None:
    read = PREPROCESSING.changed(reading=ImageReading(value_range=(0, 4095)))
    one, _ = store_hidden(tmp_path / "1", ("stem", "layer1.0"), (1, 8, 8), read.id, 0, read)
    _, text = card(registry, store_one(registry, one, "wide.hidden-1").id, tmp_path / "hub")
    assert (
        "says how to normalise them. Before that, when picture files are read, values from 0 to "
        "4095 of grey pictures of more than eight bits are scaled to 0 to 255, and what lies "
        "outside is cut off.\n"
    ) in text


def test_a_folder_with_something_in_it_is_left_alone(
    registry: Registry, examples: Examples, tmp_path: Path
) -> None:
    store_one(registry, examples.first())
    (tmp_path / "hub").mkdir()
    export_huggingface(registry, "net.hidden-1", tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "pipeline_tag" not in text.split("---\n")[1], "it has no classes"
    with pytest.raises(BundleError, match="not there yet or is empty"):
        export_huggingface(registry, "net.hidden-1", tmp_path / "hub")
    assert (tmp_path / "hub" / "README.md").read_text() == text

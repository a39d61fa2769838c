from __future__ import annotations

import html
from typing import Any

import pytest

from modkernel.modules.stored import StoredModule
from modkernel.registry import ModuleRecord
from modkernel.registry.tracking.cards import LIMIT_CHARACTERS, module_card, sentence
from modkernel.spec import BackboneSpec, DatasetFacts, ModuleSpec
from tests.registry.helpers.examples import Examples, report_of

pytestmark = pytest.mark.home("chain")


def test_the_first_line_is_a_plain_sentence(examples: Examples) -> None:
    first, _, output = examples.chain()
    assert sentence("net.hidden-1", first.spec) == (
        "Hidden module net.hidden-1: stem of resnet18, trained on digits to maximise "
        "anchor_contrastive under the relu_avgpool kernel."
    )
    assert sentence("net.output", output.spec) == (
        "Output module of net: 3 classes of digits, trained by cross_entropy on all labels."
    )
    facts = output.spec.dataset.changed(labels_fingerprint="f" * 64)
    by_hand = sentence("net.output", output.spec.changed(dataset=facts))
    assert by_hand.endswith("trained by cross_entropy on a file of labels.")


def test_the_first_line_tells_of_a_tail(examples: Examples) -> None:
    first, _, _ = examples.chain()
    assert first.spec.kind == "hidden"

    def told(**tail: Any) -> str:
        hidden = first.spec.hidden.changed(**tail)
        return sentence("a", first.spec.changed(hidden=hidden)).partition(" kernel")[2]

    assert told(tail=("layer2.0", "layer3.0")) == (
        " on a tail of layer2.0, layer3.0 that was thrown away."
    )
    assert told(tail={"projection": 8}) == " on a projection of 8 units that was thrown away."
    assert told(tail="none") == "."


def test_a_card_names_what_a_module_needs(
    records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    chain = examples.chain()
    card = module_card(records[-1], records[:-1], report_of(chain[-1]), ["figures/a b.png"])
    lines = card.splitlines()
    assert lines[0] == sentence("net.output", chain[-1].spec)
    assert (
        f"figures/a b.png](get-artifact?path=figures%2Fa%20b.png&run_uuid={records[-1].run_id})"
        in card
    )
    below = (
        "[net.hidden-1 version 1](#/models/net.hidden-1/versions/1?workflowType=machine_learning)"
    )
    assert f"| 1&emsp; | {below}&emsp; | `{records[0].id[:12]}` |" in lines
    assert "| device&emsp; | cpu, float32, 2 threads |" in lines
    assert any(line.startswith("| trained again&emsp; | the same weights, where") for line in lines)
    together = report_of(chain[-1]).changed(devices=2)
    card = module_card(records[-1], records[:-1], together, [])
    assert "| device&emsp; | 2 × cpu, float32, 2 threads |" in card
    assert "numbers of threads and devices are the same" in card
    assert f"| 3&emsp; | net.output (this module)&emsp; | `{records[2].id[:12]}` |" in lines
    assert "| raw data&emsp; | 1×8×8 uint8 |" in lines
    assert "| accuracy_all_labels&emsp; | 0.9 |" in lines
    assert "| worst_class_accuracy&emsp; | 0.5 |" in lines
    assert "Worst class 'b': 2 of 4." in lines
    assert (
        f"Served by `modkernel serve-network {records[-1].short_id}`, it answers `curl -H "
        "'Content-Type: image/png' --data-binary @picture.png http://127.0.0.1:8000/invocations`."
    ) in lines
    assert chain[-1].spec.dataset.fingerprint in card


def test_a_card_names_the_packages_that_a_chain_needs(
    records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    chain = examples.chain()
    own = records[0].spec.changed(backbone=BackboneSpec(name="mine.nets:deep"))
    below = records[0].model_copy(update={"spec": own})
    card = module_card(records[-1], [below, records[1]], report_of(chain[-1]))
    assert "| mine&emsp; | `mine.nets:deep`&emsp; | to load it |" in card.splitlines()
    assert "MODKERNEL_TRUSTED_PACKAGES" in card
    assert "from outside" not in module_card(records[-1], records[:-1], report_of(chain[-1]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&#60;img src=x onerror=alert(1)&#62;"),
        ("a|b", "a&#124;b"),
        ("`code`", "&#96;code&#96;"),
        ("**[x](y)**", "&#42;&#42;&#91;x&#93;(y)&#42;&#42;"),
        ("_a_ my_cat $x$", "&#95;a&#95; my_cat &#36;x&#36;"),
        ("a\n\n# b &lt;", "a &#35; b &#38;lt;"),
    ],
)
def test_names_from_data_are_shown_as_they_are(
    records: tuple[ModuleRecord, ...], examples: Examples, name: str, shown: str
) -> None:
    stored = examples.first()
    facts = DatasetFacts(name="big", fingerprint="f" * 64, classes=(name, "dog"))
    named = records[0].model_copy(update={"spec": stored.spec.changed(dataset=facts)})
    card = module_card(named, [], report_of(stored))
    assert f"2 classes: {shown}, dog." in card
    assert html.unescape(shown) == " ".join(name.split())


def many_classes(stored: StoredModule) -> ModuleSpec:
    classes = tuple(f"a class with quite a long name, number {i}" for i in range(1000))
    facts = DatasetFacts(name="big", fingerprint="f" * 64, classes=classes)
    return stored.spec.changed(dataset=facts)


@pytest.mark.parametrize("depth", [0, 9, 200])
def test_a_card_fits_into_a_description(
    records: tuple[ModuleRecord, ...], examples: Examples, depth: int
) -> None:
    stored = examples.first()
    big = records[0].model_copy(update={"spec": many_classes(stored), "name": "n" * 100})
    line = report_of(stored).history[0]
    report = report_of(stored).model_copy(
        update={"history": tuple(line.changed(epoch=i) for i in range(1, 301))}
    )
    card = module_card(big, [big] * depth, report, [f"figures/{i}.png" for i in range(3)])
    assert len(card) <= LIMIT_CHARACTERS
    assert card.endswith(f"| recipe digest&emsp; | `{stored.spec_sha256}` |")
    assert "and 988 more" in card

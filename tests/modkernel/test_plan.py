"""Plans: shapes and specs of modules to be, and refusals before any training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from modkernel.backbones import build_hidden
from modkernel.data import DatasetInfo
from modkernel.data.label_budget import check_tested
from modkernel.errors import (
    CutError,
    DataError,
    InterfaceError,
    LabelBudgetError,
    ModkernelError,
    ObjectiveError,
    PairError,
    UnknownNameError,
)
from modkernel.kernels import make_kernel
from modkernel.plan import (
    check_hidden,
    facts,
    output_spec,
    plan_hidden,
    plan_network,
)
from modkernel.spec import (
    BackboneSpec,
    HiddenSpec,
    Interface,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Preprocessing,
    Recipe,
)

RESNET = BackboneSpec(name="resnet18", width=2)


def info(labelled: bool = True, vectors: bool = False) -> DatasetInfo:
    return DatasetInfo(
        name="made",
        classes=("a", "b") if labelled else (),
        fingerprint="f" * 64,
        preprocessing=Preprocessing(
            shape=(4,) if vectors else (3, 16, 16), dtype="uint8", mean=(0.5,) * 3, std=(1,) * 3
        ),
        train_counts=(20, 5) if labelled else None,
        n_train=25,
        n_validation=4,
        n_test=6,
        labelled=labelled,
    )


@pytest.mark.parametrize("modules", [1, 2, 3, 4, 9])
def test_modules_take_what_the_one_before_gives(modules: int) -> None:
    plans = plan_hidden(RESNET, [HiddenSpec()] * modules, (3, 16, 16))
    assert plans[0].takes == (3, 16, 16)
    assert plans[-1].gives == (16, 2, 2)
    for before, after in pairwise(plans):
        assert after.takes == before.gives
    assert (
        sum((plan.blocks for plan in plans), ())
        == plan_hidden(RESNET, [HiddenSpec()], (3, 16, 16))[0].blocks
    )


def test_a_cut_has_one_spec_however_it_is_written() -> None:
    even = plan_hidden(RESNET, [HiddenSpec()] * 4, (3, 16, 16))
    named = plan_hidden(RESNET, [HiddenSpec(until=plan.blocks[-1]) for plan in even], (3, 16, 16))
    for one, other in zip(even, named, strict=True):
        specs = [p.spec("up", info().preprocessing, facts(info()), 0) for p in (one, other)]
        assert specs[0].digest() == specs[1].digest()


def test_an_output_module_takes_what_the_hidden_one_gives() -> None:
    (plan,) = plan_hidden(RESNET, [HiddenSpec()], (3, 16, 16))
    below = plan.spec("up", info().preprocessing, facts(info()), 0)
    spec = output_spec(OutputSpec(), below, "below", info(), 0)
    assert spec.interface.takes == below.interface.gives
    assert spec.interface.gives == (2,)
    assert spec.interface.stands_on == ("below",)
    assert spec.preprocessing == below.preprocessing
    assert spec.classes == ("a", "b")


def test_a_sigma_that_is_left_out_leaves_something_to_train_on() -> None:
    """It is a number in what is stored, and the same module as if it had been given."""
    made = info()
    specs = []
    for sigma in (None, 16.0, 1.0):
        hidden = HiddenSpec(kernel=KernelSpec(name="gaussian", sigma=sigma))
        (plan,) = plan_hidden(BackboneSpec(name="mlp", width=256, depth=1), [hidden], (1, 8, 8))
        specs.append(plan.spec("up", made.preprocessing, facts(made), 0))
    left_out, given, other = specs
    assert left_out == given != other
    assert left_out.interface.kernel.sigma == left_out.hidden.kernel.sigma == 16.0
    module = build_hidden(left_out.backbone, left_out.blocks, left_out.interface.takes, 0)
    h = module(torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    values = make_kernel(left_out.interface.kernel).gram(h, h)[~torch.eye(64, dtype=torch.bool)]
    assert values.min() > 0.1
    assert values.max() < 0.8


def test_an_output_module_stores_a_number_for_its_sigma() -> None:
    (plan,) = plan_hidden(RESNET, [HiddenSpec()], (3, 16, 16))
    below = plan.spec("up", info().preprocessing, facts(info()), 0)
    kernel = KernelSpec(name="gaussian")
    spec = output_spec(OutputSpec(), below, "below", info(), 0, kernel)
    assert spec.interface.kernel == kernel.changed(sigma=8.0)  # Of 16 maps of 2 x 2.
    with pytest.raises(ValidationError, match="is to be planned"):
        spec.interface.changed(kernel=kernel)
    with pytest.raises(ObjectiveError, match="needs a sigma"):
        make_kernel(kernel)


def test_what_is_stored_of_other_kernels_is_as_it_always_was() -> None:
    (plan,) = plan_hidden(RESNET, [HiddenSpec()], (3, 16, 16))
    assert plan.hidden.kernel.sigma == 1.0
    by_hand = Interface(upstream="up", takes=(3,), gives=(4,), kernel=KernelSpec(name="relu"))
    assert '"sigma":1.0' in by_hand.canonical_json()


@pytest.mark.parametrize(
    ("backbone", "modules", "takes", "kernels"),
    [
        (BackboneSpec(name="lenet5"), 1, (1, 28, 28), {"relu"}),
        (BackboneSpec(name="lenet5"), 3, (1, 28, 28), {"relu_avgpool", "relu"}),
        (BackboneSpec(name="mlp"), 2, (4,), {"relu"}),
        (BackboneSpec(name="mlp"), 1, (1, 8, 8), {"relu"}),
        (RESNET, 2, (3, 16, 16), {"relu_avgpool"}),
    ],
)
def test_a_kernel_that_is_not_named_fits_the_output(
    backbone: BackboneSpec, modules: int, takes: tuple[int, ...], kernels: set[str]
) -> None:
    plans = plan_hidden(backbone, [HiddenSpec()] * modules, takes)
    assert {plan.hidden.kernel.name for plan in plans} == kernels
    named = [HiddenSpec(kernel=KernelSpec(name=plan.hidden.kernel.name)) for plan in plans]
    assert plans == plan_hidden(backbone, named, takes), "and is the same module"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kernel": KernelSpec(name="linear")}, r"^hidden\[1\]\.kernel: Unknown kernel 'linear'"),
        ({"kernel": KernelSpec(name="relu_avgpool")}, r"^hidden\[1\]\.kernel: .* takes maps"),
        ({"objective": ObjectiveSpec(name="x")}, r"^hidden\[1\]\.objective: Unknown objective"),
        ({"recipe": Recipe(flip=True)}, r"^hidden\[1\]\.recipe: "),
    ],
)
def test_an_error_names_module_and_field(wrong: dict[str, Any], told: str) -> None:
    spec = NetworkSpec(name="net", hidden=(HiddenSpec(), HiddenSpec(**wrong)))
    with pytest.raises(ModkernelError, match=told):
        plan_network(spec, info(vectors=True))


BAD: dict[str, tuple[dict[str, Any], type[ModkernelError]]] = {
    "backbone": ({"backbone": BackboneSpec(name="vgg")}, UnknownNameError),
    "kernel": ({"hidden": (HiddenSpec(kernel=KernelSpec(name="linear")),)}, UnknownNameError),
    "objective": (
        {"hidden": (HiddenSpec(objective=ObjectiveSpec(name="triplet")),)},
        UnknownNameError,
    ),
    "cut": ({"hidden": (HiddenSpec(until="layer9"),)}, CutError),
    "undefined": (
        {"hidden": (HiddenSpec(objective=ObjectiveSpec(name="alignment_neo")),)},
        ObjectiveError,
    ),
    "pooled vector": (
        {"backbone": BackboneSpec(name="mlp"), "hidden": (HiddenSpec(kernel=KernelSpec()),)},
        InterfaceError,
    ),
    "labels": ({"output": OutputSpec(labels_per_class=6)}, LabelBudgetError),
}


@pytest.mark.parametrize(("change", "error"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_at_once(
    change: dict[str, Any], error: type[ModkernelError]
) -> None:
    spec = NetworkSpec(name="n", backbone=RESNET).model_copy(update=change)
    with pytest.raises(error):
        plan_network(spec, info())


def test_augmentation_is_for_images() -> None:
    vectors = Preprocessing(shape=(16,), dtype="float32", mean=(0.0,), std=(1.0,))
    hidden = HiddenSpec(kernel=KernelSpec(name="relu"), recipe=Recipe(flip=True))
    spec = NetworkSpec(name="n", backbone=BackboneSpec(name="mlp"), hidden=(hidden,))
    with pytest.raises(InterfaceError, match="flip to false"):
        plan_network(spec, info().changed(preprocessing=vectors))


def test_unlabelled_data_needs_pairs_and_no_output_module() -> None:
    spec = NetworkSpec(name="n", backbone=RESNET)
    with pytest.raises(PairError, match="'pairs'"):
        plan_network(spec, info(labelled=False))
    paired = spec.changed(pairs="pairs.csv")
    with pytest.raises(DataError, match="output: null"):
        plan_network(paired, info(labelled=False))
    small = HiddenSpec(recipe=Recipe(batch_size=3))
    with pytest.raises(PairError, match="at least 4"):
        plan_network(paired.changed(hidden=(small,)), info(labelled=False))
    alone = paired.changed(output=None)
    assert len(plan_network(alone, info(labelled=False))) == 1


def test_parts_that_are_too_small_are_named() -> None:
    few = info().changed(train_counts=(1, 1), n_train=2)
    with pytest.raises(PairError, match=r"hidden\[0\]: No class .* two of the 2 .* training part"):
        check_hidden([HiddenSpec(objective=ObjectiveSpec(name="log_contrastive"))], few)
    check_hidden([HiddenSpec(objective=ObjectiveSpec(name="log_contrastive_neo"))], few)
    with pytest.raises(DataError, match=r"test part .* none of its 29 .*dataset\.test_fraction"):
        check_tested(info().changed(n_test=0))

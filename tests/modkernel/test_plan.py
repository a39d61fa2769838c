"""Plans: shapes and specs of modules to be, and refusals before any training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

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

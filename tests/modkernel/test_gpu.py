"""What a GPU computes against the CPU, for every kernel, objective, score and kind of training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modkernel.data import (
    DataPlaces,
    Dataset,
    Resident,
    Split,
    augment,
    describe_dataset,
    place_dataset,
)
from modkernel.features.cache import FeatureCache
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain
from modkernel.features.measure import measure
from modkernel.jobs.client import ForkServer
from modkernel.jobs.job import HiddenJob
from modkernel.kernels import KERNELS, make_kernel
from modkernel.modules.stored import StoredModule, write_module
from modkernel.objectives.table import OBJECTIVES, make_objective
from modkernel.pairs.labels import PairLabels
from modkernel.plan import facts, plan_network
from modkernel.reuse.moments import accumulate
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.reuse.scores import SCORES
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.system.memory import peak_memory
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import train_end_to_end, train_hidden, train_output
from modkernel.training.heads import fit_heads, predict_heads
from modkernel.training.report import TrainReport
from tests.modkernel.helpers.devices import DEVICE, FLOAT32, needs_gpu
from tests.modkernel.helpers.training_examples import (
    FACTS,
    PREPROCESSING,
    labelled,
    made_images,
    output_spec_on,
    paired,
    plans,
    trained,
)

pytestmark = [pytest.mark.gpu, needs_gpu]

CPU = Arithmetic(torch.device("cpu"), torch.float32)
BFLOAT16 = Arithmetic(DEVICE, torch.bfloat16)
WIDE = BackboneSpec(name="resnet18", width=16)
AUGMENTED = Recipe(epochs=12, batch_size=32, crop_padding=1, flip=True)


def made_set() -> Dataset:
    """A data set in memory, on the CPU: its three parts are neighbours in one tensor."""
    images, labels = made_images(186)
    ends = (0, 96, 126, 186)
    parts = [
        Split([str(i) for i in range(a, b)], labels[a:b], Resident(images, a, b))
        for a, b in pairwise(ends)
    ]
    return Dataset("made", FACTS.classes, "f" * 64, PREPROCESSING, *parts)


def value_and_gradient(
    kernel: str, objective: ObjectiveSpec, z: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    made = make_kernel(KernelSpec(name=kernel, sigma=1.0))
    value = make_objective(objective, made)(made.gram(z, z), PairLabels.from_classes(labels))
    value.backward()
    assert z.grad is not None
    return value.detach().cpu(), z.grad.cpu()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_objectives_and_their_gradients_are_the_cpu_s(kernel: str, objective: str) -> None:
    spec = ObjectiveSpec(name=objective)
    shape = (24, 5, 4, 4) if kernel == "relu_avgpool" else (24, 7)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(24) % 3
    if OBJECTIVES[objective].needs_negative_k_min and kernel != "tanh":
        pytest.skip("undefined for this kernel")
    expected = value_and_gradient(kernel, spec, z, labels)
    for mine in (labels, labels.to(DEVICE)):  # Pairs may lie on either device.
        found = value_and_gradient(kernel, spec, z.to(DEVICE), mine)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in SCORES if SCORES[name].needs == "features"])
def test_scores_of_features_are_the_cpu_s(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    phi = torch.nn.functional.normalize(torch.randn(90, 6, generator=generator), dim=1)
    labels = torch.arange(90) % 3
    expected = SCORES[name].function(phi, labels)
    found = SCORES[name].function(phi.to(DEVICE), labels.to(DEVICE))
    assert found == pytest.approx(expected, rel=1e-4)


def test_moments_are_accumulated_on_the_device_and_come_back() -> None:
    phi, labels = torch.rand(100, 8), torch.arange(100) % 3
    expected = accumulate([(phi, labels)], FACTS.classes, "f" * 64)
    blocks = zip(phi.to(DEVICE).split(30), labels.to(DEVICE).split(30), strict=True)
    found = accumulate(blocks, FACTS.classes, "f" * 64)
    assert found.products.device.type == "cpu"
    torch.testing.assert_close(found.products, expected.products)
    torch.testing.assert_close(found.sums, expected.sums)
    assert torch.equal(found.counts, expected.counts)


def test_crops_and_flips_are_the_cpu_s_on_channels_last_too() -> None:
    x = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    expected = augment(x, 4, True, torch.Generator().manual_seed(5))
    for given in (x.to(DEVICE), x.to(DEVICE).contiguous(memory_format=torch.channels_last)):
        found = augment(given, 4, True, torch.Generator().manual_seed(5))
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("method", ["cross_entropy", "hinge", "ridge"])
def test_output_modules_are_the_cpu_s(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(90) % 3
    phi = torch.randn(90, 6, generator=generator)
    phi[:, 0] += 2 * labels
    phi = torch.nn.functional.normalize(phi, dim=1)
    spec = OutputSpec.model_validate({"method": method, "minimum_steps": 100})
    chosen = torch.randperm(90, generator=generator)[:60].view(3, 20)
    expected = fit_heads(phi, labels, chosen, 3, spec, seed=1)
    found = fit_heads(phi.to(DEVICE), labels.to(DEVICE), chosen, 3, spec, seed=1)
    torch.testing.assert_close(found.weight.cpu(), expected.weight, rtol=3e-2, atol=3e-2)
    for features in (phi, phi.to(DEVICE)):
        same = predict_heads(found, features).cpu() == predict_heads(expected, phi)
        assert same.double().mean() > 0.97


def test_one_step_gives_the_cpu_s_weights() -> None:
    """One step: later ones amplify the last digits in which two devices differ."""
    (plan,) = plans(WIDE, Recipe(epochs=1, batch_size=96, crop_padding=1, flip=True))
    spec = plan.spec(PREPROCESSING.id, PREPROCESSING, FACTS, seed=0)
    expected, _ = train_hidden(spec, paired(96), paired(30, 1), arithmetic=CPU)
    found, report = train_hidden(spec, paired(96), paired(30, 1), arithmetic=FLOAT32)
    assert report.device.startswith("cuda")
    for name, value in expected.items():
        assert found[name].device.type == "cpu"
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("arithmetic", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_a_network_learns_and_is_measured(arithmetic: Arithmetic, tmp_path: Path) -> None:
    """Two hidden modules and an output module, on data that lie on the device."""
    data = place_dataset(made_set(), DEVICE)
    assert isinstance(data.train.examples, Resident)
    assert data.train.examples.base.is_cuda
    assert data.train.examples.base is data.test.examples.base
    cache = FeatureCache(tmp_path / "features", 1 << 30)
    chain: list[StoredModule] = []
    for position, plan in enumerate(plans(WIDE, AUGMENTED, modules=2)):
        upstream = chain[-1].id if chain else PREPROCESSING.id
        spec = plan.spec(upstream, PREPROCESSING, FACTS, seed=0)
        train, validation = paired(96), paired(30, 1)
        weights, report = train_hidden(
            spec, train, validation, chain, arithmetic=arithmetic, cache=cache
        )
        assert report.precision == arithmetic.name
        assert report.history[-1].objective > report.history[0].objective
        chain.append(write_module(tmp_path / str(position), spec, weights))
    test = labelled(60, 2)
    spec = output_spec_on(chain[-1], OutputSpec(labels_per_class=1, draws=5))
    _, report = train_output(spec, labelled(96), test, chain, arithmetic=arithmetic, cache=cache)
    assert report.evaluation is not None
    assert report.evaluation.accuracy_all_labels > 0.6
    found, expected = (measure(chain, data, each) for each in (arithmetic, CPU))
    off = (found.train.sums - expected.train.sums).norm() / expected.train.sums.norm()
    assert off < (1e-4 if arithmetic is FLOAT32 else 0.05)
    assert peak_memory()["peak_gpu_memory_bytes"] > 0


def test_features_lie_on_the_device_and_are_the_cpu_s(tmp_path: Path) -> None:
    (stored,) = trained(tmp_path / "chain", Recipe(epochs=1, batch_size=32))
    images = labelled(50).examples
    expected = compute_features(frozen_chain([stored]), images, CPU)
    chain = FLOAT32.place(frozen_chain([stored]))
    found = compute_features(chain, images, FLOAT32)
    assert found.values.is_cuda
    torch.testing.assert_close(found.values.cpu(), expected.values, rtol=1e-3, atol=1e-3)
    far = compute_features(chain, images, FLOAT32, gpu_limit=0)
    assert not far.values.is_cuda
    (batch,) = far.batches([torch.arange(7)], DEVICE)
    assert batch.is_cuda


def test_a_baseline_learns() -> None:
    spec = NetworkSpec(
        name="made",
        backbone=WIDE,
        hidden=(HiddenSpec(recipe=AUGMENTED),),
    )
    report = train_end_to_end(spec, place_dataset(made_set(), DEVICE), arithmetic=BFLOAT16)
    assert report.evaluation is not None
    assert report.evaluation.accuracy > 0.4  # Guessing gives a third.


def test_bfloat16_is_chosen_on_this_card() -> None:
    chosen = choose_arithmetic()
    assert chosen.device.type == "cuda"
    fast = torch.cuda.get_device_capability() >= (8, 0)
    assert chosen.name == ("bfloat16" if fast else "float32")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_forked_child_takes_the_gpu(device: str, tmp_path: Path) -> None:
    """The whole way of a flow's job: CUDA starts in a child of the fork server, and only there."""
    recipe = Recipe(epochs=2)
    spec = NetworkSpec(
        name="digits",
        backbone=BackboneSpec(name="mlp", width=64),
        hidden=(HiddenSpec(kernel=KernelSpec(name="relu"), recipe=recipe),),
    )
    places = DataPlaces(root=tmp_path, cache=tmp_path / "cache", download=False)
    info = describe_dataset(DatasetSpec(), places)
    (plan,) = plan_network(spec, info)
    job = HiddenJob(
        module=plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0),
        dataset=DatasetSpec(),
        data_root=str(places.root),
        cache=str(places.cache),
        device=device,
        work=str(tmp_path / "work"),
        slots=str(tmp_path / "slots"),
        features=str(tmp_path / "features"),
        feature_limit=1 << 30,
    )
    seen: list[dict[str, object]] = []
    server = ForkServer("modkernel.jobs.run:run_job")
    server.start()
    try:
        server.run(job, lambda event: seen.append(dict(event)))
    finally:
        server.close()
    (started,) = (event for event in seen if event["event"] == "started")
    assert started["device"] == "cuda", started
    report = TrainReport.model_validate_json((job.result / "report.json").read_bytes())
    assert report.device.startswith("cuda")
    assert (report.peak_memory_bytes or 0) > 0
    assert (job.result / MOMENTS_FILE).exists(), [event for event in seen if "text" in event]

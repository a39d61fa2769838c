from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from modkernel.errors import ArtifactError, SpecError
from modkernel.lookup import trusting
from modkernel.modules.output import OutputModule
from modkernel.modules.stored import (
    SPEC_FILE,
    WEIGHTS_FILE,
    StoredModule,
    build_module,
    module_id,
    read_module,
    write_module,
)
from modkernel.spec import BackboneSpec, KernelSpec
from tests.modkernel.helpers.stored_examples import (
    PREPROCESSING,
    RESNET,
    hidden_spec,
    make_hidden,
    store_hidden,
    store_output,
)

BLOCKS = ("stem", "layer1.0")


@pytest.fixture
def example(tmp_path: Path) -> tuple[StoredModule, nn.Module]:
    return store_hidden(tmp_path / "module", BLOCKS, (1, 8, 8), PREPROCESSING.id)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same_tensors(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        assert torch.equal(ours[name], theirs[name]), name


def test_what_is_written_is_read_and_built_bit_for_bit(example):
    stored, module = example
    again = read_module(stored.folder, stored.weights_sha256, stored.spec_sha256)
    assert again == stored
    built = build_module(again)
    assert_same_tensors(built, module)
    counts = {n: t for n, t in built.state_dict().items() if n.endswith("num_batches_tracked")}
    assert counts
    assert all(t.dtype == torch.int64 and t.item() == 1 for t in counts.values())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(built(x), module(x))


def test_built_modules_are_frozen(example):
    built = build_module(example[0])
    assert not any(part.training for part in built.modules())
    assert not any(p.requires_grad for p in built.parameters())
    assert not any(t.is_meta for t in built.state_dict().values())


def test_digests_and_id_are_those_of_the_files(example):
    stored, _ = example
    assert sorted(p.name for p in stored.folder.iterdir()) == [SPEC_FILE, WEIGHTS_FILE]
    assert stored.weights_sha256 == sha256(stored.folder / WEIGHTS_FILE)
    assert stored.spec_sha256 == sha256(stored.folder / SPEC_FILE) == stored.spec.digest()
    assert stored.id == module_id(stored.weights_sha256, stored.spec_sha256)


def test_id_depends_on_weights_and_on_upstream(tmp_path, example):
    stored, module = example
    gives = stored.spec.interface.gives
    moved = hidden_spec(BLOCKS, (1, 8, 8), gives, "preprocessing-" + "0" * 64)
    other_upstream = write_module(tmp_path / "upstream", moved, module.state_dict())
    changed = {name: t + 1 for name, t in module.state_dict().items()}
    other_weights = write_module(tmp_path / "weights", stored.spec, changed)
    assert len({stored.id, other_upstream.id, other_weights.id}) == 3


def test_bytes_do_not_depend_on_order_or_memory_layout(tmp_path, example):
    stored, module = example
    weights = module.state_dict()
    shuffled = {
        name: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t
        for name, t in reversed(weights.items())
    }
    again = write_module(tmp_path / "again", stored.spec, shuffled)
    assert again.id == stored.id


def test_tied_tensors_are_stored_each(tmp_path, example):
    stored, module = example
    weights = dict(module.state_dict())
    first, second = "layer1_0.body.bn1.weight", "layer1_0.body.bn2.weight"
    weights[second] = weights[first]
    built = build_module(write_module(tmp_path / "tied", stored.spec, weights))
    assert torch.equal(built.state_dict()[second], weights[first])


@given(seed=st.integers(0, 2**40), width=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_round_trip(tmp_path_factory, seed, width):
    backbone = BackboneSpec(name="mlp", width=width, depth=2)
    spec, module = make_hidden(("linear1", "linear2"), (1, 8, 8), PREPROCESSING.id, seed, backbone)
    stored = write_module(tmp_path_factory.mktemp("round") / "m", spec, module.state_dict())
    assert read_module(stored.folder) == stored
    assert_same_tensors(build_module(stored), module)


def test_modules_of_several_megabytes_are_written_whole(tmp_path):
    backbone = BackboneSpec(name="mlp", width=1000, depth=2)
    spec, module = make_hidden(("linear1", "linear2"), (1, 8, 8), PREPROCESSING.id, 0, backbone)
    stored = write_module(tmp_path / "large", spec, module.state_dict())
    assert (stored.folder / WEIGHTS_FILE).stat().st_size > 4_000_000
    assert_same_tensors(build_module(read_module(stored.folder)), module)


@pytest.mark.parametrize("kernel", ["tanh", "sigmoid", "relu", "relu_avgpool", "gaussian"])
def test_output_modules_round_trip(tmp_path, kernel):
    spec = KernelSpec(name=kernel, sigma=3.0, centres=256)
    centres = torch.randn(7, 4, 2, 2) if kernel == "gaussian" else None
    stored, module = store_output(tmp_path / "output", (4, 2, 2), "1" * 64, spec, centres)
    built = build_module(read_module(stored.folder))
    assert isinstance(built, OutputModule)
    assert_same_tensors(built, module)
    expected = {"weight", "bias"} | ({"centres"} if kernel == "gaussian" else set())
    assert set(load_file(stored.folder / WEIGHTS_FILE)) == expected
    h = torch.randn(5, 4, 2, 2)
    assert built(h).shape == (5, 3)
    assert torch.equal(built(h), module(h))


# ---- writing


def test_writing_the_same_again_changes_nothing(example):
    stored, module = example
    before = {path.name: path.stat().st_mtime_ns for path in stored.folder.iterdir()}
    assert write_module(stored.folder, stored.spec, module.state_dict()) == stored
    assert {path.name: path.stat().st_mtime_ns for path in stored.folder.iterdir()} == before


def test_writing_never_replaces_another_module(example):
    stored, module = example
    changed = {name: t + 1 for name, t in module.state_dict().items()}
    with pytest.raises(ArtifactError, match="differs from what was stored"):
        write_module(stored.folder, stored.spec, changed)
    assert read_module(stored.folder) == stored


def test_writing_into_an_empty_folder(tmp_path, example):
    stored, module = example
    (tmp_path / "empty").mkdir()
    assert write_module(tmp_path / "empty", stored.spec, module.state_dict()).id == stored.id


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_nothing(tmp_path, example, monkeypatch, step):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    stored, module = example
    monkeypatch.setattr(f"modkernel.system.files.os.{step}", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_module(tmp_path / "new", stored.spec, module.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["module"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, example):
    stored, module = example
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"Cannot write a module to .*file/module"):
        write_module(tmp_path / "file" / "module", stored.spec, module.state_dict())


# ---- missing and altered files


@pytest.mark.parametrize("name", [WEIGHTS_FILE, SPEC_FILE])
def test_a_missing_file_is_named(example, name):
    stored, _ = example
    (stored.folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"Cannot read .*{name}"):
        read_module(stored.folder)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_flipped_bit_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip") / "module"
    stored, _ = store_hidden(folder, ("stem",), (1, 8, 8), PREPROCESSING.id)
    path = folder / data.draw(st.sampled_from([WEIGHTS_FILE, SPEC_FILE]))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=path.name):
        read_module(folder, stored.weights_sha256, stored.spec_sha256)


def test_weights_altered_after_reading_are_not_loaded(example):
    stored, module = example
    path = stored.folder / WEIGHTS_FILE
    save_file({name: t + 1 for name, t in module.state_dict().items()}, path)
    with pytest.raises(ArtifactError, match=f"{WEIGHTS_FILE} differs from what was stored"):
        build_module(stored)


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_never_run(tmp_path, example):
    stored, _ = example
    mark = tmp_path / "pwned"
    hostile = pickle.dumps({"weight": Hostile(mark)})
    path = stored.folder / WEIGHTS_FILE
    path.write_bytes(hostile)
    with pytest.raises(ArtifactError, match=f"{WEIGHTS_FILE} is not a safetensors file"):
        read_module(stored.folder)
    trusted = StoredModule(stored.id, stored.spec, stored.folder, sha256(path), stored.spec_sha256)
    with pytest.raises(ArtifactError, match=f"{WEIGHTS_FILE} is not a safetensors file"):
        build_module(trusted)
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists(), "the file was indeed hostile"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"not weights at all", bytes(64)])
def test_garbage_weights_are_refused(example, content):
    stored, _ = example
    (stored.folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        read_module(stored.folder)


# ---- specs that are not ours


def rewrite(stored: StoredModule, **changes: Any) -> None:
    path = stored.folder / SPEC_FILE
    spec = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(spec, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"seed": "0"}, "seed: Input should be a valid integer"),
        ({"blocks": []}, "hidden.blocks: Tuple should have at least 1 item"),
        ({"kind": "both"}, "Input tag 'both'"),
    ],
)
def test_specs_are_parsed_strictly(example, changes, message):
    stored, _ = example
    rewrite(stored, **changes)
    with pytest.raises(ArtifactError, match=f"{SPEC_FILE} is not the spec of a module.*{message}"):
        read_module(stored.folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", "nonsense", "\udcff", "[" * 300_000])
def test_garbage_specs_are_refused(example, content):
    stored, _ = example
    (stored.folder / SPEC_FILE).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=f"{SPEC_FILE} is not the spec of a module"):
        read_module(stored.folder)


def test_a_spec_in_another_form_is_refused(example):
    stored, _ = example
    path = stored.folder / SPEC_FILE
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    with pytest.raises(ArtifactError, match="not in the form that modkernel writes"):
        read_module(stored.folder)


def test_another_format_version_names_both(example):
    stored, _ = example
    rewrite(stored, format=7)
    with pytest.raises(ArtifactError, match=r"format version 7, but .* reads version 1"):
        read_module(stored.folder)


# ---- weights that are not the spec's


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("stem.bn.running_var"), "missing: stem.bn.running_var"),
        (lambda w: w.update(spare=torch.zeros(1)), "not expected: spare"),
        (
            lambda w: w.update({"stem.conv.weight": torch.zeros(2, 3, 3, 3)}),
            r"'stem.conv.weight' must be torch.float32 \[2, 1, 3, 3\], but is .*\[2, 3, 3, 3\]",
        ),
        (
            lambda w: w.update({"stem.bn.num_batches_tracked": torch.tensor(1.0)}),
            "must be torch.int64",
        ),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_tensors_are_checked_strictly(tmp_path, example, change, message):
    stored, module = example
    weights = dict(module.state_dict())
    change(weights)
    wrong = write_module(tmp_path / "wrong", stored.spec, weights)
    with pytest.raises(ArtifactError, match=message):
        build_module(wrong)


@pytest.mark.parametrize("names", [(), ("other",), ("tests.modkernel",), ("planted:other",)])
def test_code_that_a_stored_spec_names_is_not_imported(example, tmp_path, monkeypatch, names):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    stored, _ = example
    planted = stored.spec.changed(backbone=BackboneSpec(name="planted:blocks"))
    with (
        trusting(names),
        pytest.raises(SpecError, match=r"'planted:blocks'.*'planted'.*MODKERNEL_TRUSTED_PACKAGES"),
    ):
        build_module(replace(stored, spec=planted))
    assert not (tmp_path / "ran").exists()


def test_building_leaves_global_random_state(example):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    build_module(example[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert example[0].spec.backbone == RESNET

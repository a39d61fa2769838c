from __future__ import annotations

import base64
import json
import shutil
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from modkernel.errors import ArtifactError, InterfaceError
from modkernel.kernels import make_kernel
from modkernel.modules.network import assemble
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE
from modkernel.registry import ModuleRecord, NetworkRecord, Registry, Settings
from modkernel.registry.flavor import load_model
from modkernel.registry.tracking import models
from modkernel.reuse.distance import distance_from
from modkernel.reuse.moments import ModuleMoments, accumulate
from modkernel.reuse.moments_file import write_moments
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.conftest import free_port
from tests.registry.helpers.examples import Examples, store_chain, store_one
from tests.registry.helpers.servers import mlflow_server, serving
from tests.registry.test_store import alter, kept_folder

pytestmark = pytest.mark.home("chain")
RAW = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def expected(examples: Examples) -> Any:
    """Probabilities of the chain, assembled from the files that training left."""
    return assemble(examples.chain()).predict(torch.from_numpy(RAW)).numpy()


def uri(record: ModuleRecord | NetworkRecord) -> str:
    return f"models:/{record.name}/{record.version}"


def by_class(table: pd.DataFrame) -> Any:
    """Probabilities [N, C] out of an answer."""
    return np.array([list(one.values()) for one in table["probabilities"]], dtype=np.float32)


def png(pixels: Any) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pyfunc_predict(model_uri: str, raw: Any) -> Any:
    return mlflow.pyfunc.load_model(model_uri).predict(raw)


def test_our_own_loader_brings_the_whole_chain(
    records: tuple[ModuleRecord, ...], expected: Any
) -> None:
    network = load_model(uri(records[-1]))
    assert [stored.id for stored in network.stored] == [record.id for record in records]
    np.testing.assert_array_equal(network.predict(torch.from_numpy(RAW)).numpy(), expected)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
class TestPyfunc:
    """MLflow warns about its own type hints while it imports `mlflow.pyfunc`."""

    def test_an_output_module_gives_probabilities_by_class(
        self, registry: Registry, records: tuple[ModuleRecord, ...], expected: Any
    ) -> None:
        registry.promotions.promote("net.output", "champion", 1)
        table = pyfunc_predict("models:/net.output@champion", RAW)
        assert list(table.columns) == ["label", "probability", "probabilities", "distance"]
        np.testing.assert_array_equal(by_class(table), expected)
        assert list(table["label"]) == [str(best) for best in expected.argmax(axis=1)]
        np.testing.assert_array_equal(table["probability"], expected.max(axis=1))
        assert table["distance"].isna().all()

    @pytest.mark.usefixtures("registry")
    def test_a_hidden_module_gives_its_kernel_features(
        self, records: tuple[ModuleRecord, ...], examples: Examples
    ) -> None:
        network = assemble(examples.chain()[:2])
        kernel = make_kernel(records[1].spec.interface.kernel)
        phi = kernel.features(network.features(torch.from_numpy(RAW)))
        table = pyfunc_predict(uri(records[1]), RAW)
        assert table.columns[0] == "feature_0"
        np.testing.assert_array_equal(table.to_numpy(), phi.numpy())

    def test_pictures_as_base64(self, records: tuple[ModuleRecord, ...], expected: Any) -> None:
        texts = [png(image[0]) for image in RAW]
        for given in (np.array(texts), pd.DataFrame({"image": texts})):
            table = pyfunc_predict(uri(records[-1]), given)
            np.testing.assert_allclose(by_class(table), expected, rtol=1e-6)

    def test_the_distance_comes_from_the_moments_beside_the_hidden_module(
        self, registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
    ) -> None:
        network = registry.networks.load(registry.networks.add("net", [r.id for r in records]))
        phi = make_kernel(records[1].spec.interface.kernel).features(
            network.features(torch.from_numpy(RAW))
        )
        labels = torch.tensor([0, 0, 1, 1, 1])
        part = accumulate([(phi, labels)], FACTS.classes, FACTS.fingerprint)
        moments = ModuleMoments(records[1].id, part, part, seconds=1.0)
        write_moments(tmp_path / "moments", moments)
        registry.moments.store(records[1], tmp_path / "moments")
        distance = distance_from(moments)(phi)
        table = pyfunc_predict(uri(records[-1]), RAW)
        np.testing.assert_allclose(table["distance"], distance, rtol=1e-4)
        found = registry.moments.of_training(records)
        assert found is not None
        assert torch.equal(found.train.sums, part.sums)
        # Those of another module, in its place, are not believed.
        (file,) = (kept_folder(registry, records[1]) / "moments").iterdir()
        write_moments(file, ModuleMoments(records[0].id, part, part, seconds=1.0))
        assert pyfunc_predict(uri(records[-1]), RAW)["distance"].isna().all()

    def test_more_examples_than_a_batch(self, records: tuple[ModuleRecord, ...]) -> None:
        many = np.repeat(RAW, 60, axis=0)
        rows = by_class(pyfunc_predict(uri(records[-1]), many))
        assert len(rows) == 300
        np.testing.assert_allclose(rows[0], rows[299 - 299 % 60 - 240], rtol=1e-5)

    def test_what_is_no_picture_is_refused(self, records: tuple[ModuleRecord, ...]) -> None:
        with pytest.raises(mlflow.MlflowException, match="Example 1 of 5 has numbers other than"):
            pyfunc_predict(uri(records[-1]), RAW / 255)
        with pytest.raises(mlflow.MlflowException, match="text that is no base64"):
            pyfunc_predict(uri(records[-1]), np.array(["../secret.png"]))


def test_altered_bytes_anywhere_in_the_chain(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    for record in (records[0], records[2]):
        for name in (WEIGHTS_FILE, SPEC_FILE):
            file = kept_folder(registry, record) / name
            good = file.read_bytes()
            alter(file)
            with pytest.raises(ArtifactError, match=rf"{name} differs from what was stored"):
                load_model(uri(records[-1]))
            file.write_bytes(good)
    load_model(uri(records[-1]))


def test_a_chain_of_somebody_elses_choosing_does_not_assemble(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    twin = store_one(registry, examples.first(seed=1))
    file = kept_folder(registry, records[-1]) / "MLmodel"
    text = file.read_text()
    for field in ("id", "model_id", "weights_sha256", "spec_sha256"):
        text = text.replace(getattr(records[0], field), getattr(twin, field))
    file.write_text(text)
    with pytest.raises(InterfaceError, match=r"Position 2 of 3 .*was trained on upstream"):
        load_model(uri(records[-1]))


def test_code_named_by_a_hostile_model_is_found_refused_and_not_run(
    registry: Registry, records: tuple[ModuleRecord, ...], expected: Any, tmp_path: Path
) -> None:
    folder = kept_folder(registry, records[-1])
    text = (folder / "MLmodel").read_text()
    assert "loader_module: modkernel.registry.flavor" in text
    for name, found in (("evil", "evil"), ("moments", "moments/hostile.py")):
        code = folder / name
        code.mkdir()
        (code / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        (folder / "MLmodel").write_text(
            text.replace(
                "loader_module: modkernel.registry.flavor",
                f"loader_module: hostile\n    code: {name}",
            )
        )
        refused = rf"holds {found}, which modkernel did not write"
        with pytest.raises(ArtifactError, match=refused):
            load_model(uri(records[-1]))
        with pytest.raises(ArtifactError, match=refused):
            registry.modules.fetch(records[-1])
        shutil.rmtree(code)
        with pytest.raises(ArtifactError, match="names code that modkernel did not write"):
            load_model(uri(records[-1]))
    (problem,) = registry.verify()
    assert (problem.kind, problem.module_id) == ("artifact", records[-1].id)
    assert "MLmodel differs from what was stored" in problem.message
    registry.repair()
    assert registry.verify() == ()
    network = load_model(uri(registry.modules.resolve(records[-1].id)))
    np.testing.assert_array_equal(network.predict(torch.from_numpy(RAW)).numpy(), expected)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_every_file_that_serving_reads_is_verified(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    names = ("sitecustomize.py", "requirements.txt", "python_env.yaml")
    for record, name in zip(records, names, strict=True):
        file = kept_folder(registry, record) / name
        assert file.exists() == (name != "sitecustomize.py")
        with file.open("a") as text:
            text.write("other\n")
    problems = {problem.module_id: problem for problem in registry.verify()}
    assert set(problems) == {record.id for record in records}
    for record, name in zip(records, names, strict=True):
        assert problems[record.id].kind == "artifact"
        assert name in problems[record.id].message
    with pytest.raises(ArtifactError, match=r"holds sitecustomize\.py, which modkernel did not"):
        pyfunc_predict(uri(records[0]), RAW)
    registry.repair()
    assert registry.verify() == ()


@pytest.mark.usefixtures("registry")
def test_what_is_no_model_of_ours(tmp_path: Path, records: tuple[ModuleRecord, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"no MLmodel of models:/nothing/1: check the ref"):
        load_model("models:/nothing/1")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: os\n")
    for name in (WEIGHTS_FILE, SPEC_FILE):
        (foreign / name).write_text("{}")
    with pytest.raises(ArtifactError, match=r"was not stored by modkernel"):
        load_model(str(foreign))


def test_a_hostile_chain_reaches_no_folder_outside(
    registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "file").write_text("")
    up = "../" * 20 + str(treasure).lstrip("/")
    file = kept_folder(registry, records[-1]) / "MLmodel"
    text = file.read_text()
    for outside in (str(treasure), up):
        file.write_text(text.replace(records[0].id, outside))
        with pytest.raises(ArtifactError, match=r"1 fields that modkernel did not write"):
            load_model(uri(records[-1]))
    assert (treasure / "file").exists()


@pytest.mark.long
@pytest.mark.servers
@pytest.mark.timeout(180)
def test_mlflow_serves_a_stored_network(
    registry: Registry, records: tuple[ModuleRecord, ...], expected: Any
) -> None:
    settings, port = registry.settings, free_port()
    network = registry.networks.add("net", [record.id for record in records])
    command = f"models serve -m {uri(network)} --env-manager local -h 127.0.0.1 -p {port}"
    environment = {
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    address = f"http://127.0.0.1:{port}"
    with serving(command.split(), f"{address}/ping", environment):
        for inputs in (RAW.tolist(), [png(image[0]) for image in RAW]):
            answers = ask(address, {"inputs": inputs})["predictions"]
            found = [list(one["probabilities"].values()) for one in answers]
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            assert [one["label"] for one in answers] == [str(i) for i in expected.argmax(axis=1)]
        records_of = [{"image": png(RAW[0, 0])}]
        (one,) = ask(address, {"dataframe_records": records_of})["predictions"]
        assert one["label"] == answers[0]["label"]
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            ask(address, {"inputs": ["../secret.png"]})
        assert "text that is no base64" in refused.value.read().decode()


def ask(address: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.home("empty")
@pytest.mark.long
@pytest.mark.servers
@pytest.mark.timeout(180)
def test_a_chain_goes_through_an_mlflow_server(
    settings: Settings,
    examples: Examples,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with mlflow_server(settings, free_port(), tmp_path / "far") as address:
        remote = Settings(home=tmp_path / "near", mlflow_uri=address, lease_seconds=1)
        with Registry.open(remote) as registry:
            records = store_chain(registry, examples.chain())
            assert registry.verify() == ()
            assembled = assemble([registry.modules.fetch(record) for record in records])
            predicted = assembled.predict(torch.from_numpy(RAW)).numpy()
            np.testing.assert_array_equal(predicted, expected)
            network = load_model(uri(records[-1]))
            np.testing.assert_array_equal(network.predict(torch.from_numpy(RAW)), expected)
            made = registry.networks.add("net", [record.id for record in records])
            network = load_model(uri(made))
            np.testing.assert_array_equal(network.predict(torch.from_numpy(RAW)), expected)
            assert registry.verify() == ()
            client = registry.backends.client
            client.set_registered_model_alias("net", "live", "1")
            client.set_registered_model_alias(records[0].name, "best", "1")
            # Another registry, which asks the server's database itself.
            with Registry.open(settings) as there:
                there.backends.client.create_registered_model("of-others")
                there.backends.client.create_model_version("of-others", "file:///nowhere")
                client.set_registered_model_alias("of-others", "best", "1")
                names = {"net", "of-others", *(record.name for record in records)}
                asked = registry.backends.models.all_aliases(names)
                monkeypatch.setattr(models, "FEW_NAMES", 0)
                assert registry.backends.models.all_aliases(names) == asked, "listed"
                seen = there.backends.models.all_aliases(names)
                assert seen == {key: (version, None) for key, (version, _) in asked.items()}
            assert asked == {
                ("net", "live"): (1, made.id),
                (records[0].name, "best"): (1, records[0].id),
                ("of-others", "best"): (1, None),
            }
        assert len(list((tmp_path / "far").rglob(WEIGHTS_FILE))) == 3

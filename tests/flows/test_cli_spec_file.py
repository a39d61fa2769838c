"""Spec files: what is read, and the one sentence for what is not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modkernel.errors import SpecError
from modkernel.flows.specs.composition import Weights
from modkernel.flows.specs.read import as_yaml, parse_spec, read_spec, validated
from modkernel.flows.study.spec import StudySpec
from modkernel.plan import plan_hidden
from modkernel.spec import DatasetSpec, HiddenSpec, Name, NetworkSpec

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.yaml")
    if not path.stem.startswith(("search_", "study_", "compose_"))
)
"""Of networks: tests of the search, the study and `deploy` read theirs."""
SCHEMA = ROOT / "docs/spec.schema.json"


def parse(text: str) -> NetworkSpec:
    return parse_spec(text, name="net.yaml", folder=Path("/data"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_specs_and_fit_the_schema(path: Path) -> None:
    spec = read_spec(path)
    assert spec.name == path.stem.replace("_", "-")
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(SCHEMA.read_text()))


SHAPES = {
    "cifar10_resnet18": (3, 32, 32),
    "cifar10_resnet18_paper": (3, 32, 32),
    "digits": (1, 8, 8),
    "fashion_lenet5": (1, 28, 28),
    "fashion_resnet18": (1, 28, 28),
    "fashion_views": (1, 28, 28),
    "own_images": (3, 32, 32),
    "own_pairs": (3, 32, 32),
}


def test_the_examples_can_be_cut_and_trained_on_their_data() -> None:
    assert {path.stem for path in EXAMPLES} == SHAPES.keys()
    for path in EXAMPLES:
        spec = read_spec(path)
        assert len(plan_hidden(spec.backbone, spec.hidden, SHAPES[path.stem])) == len(spec.hidden)


def test_the_papers_settings() -> None:
    spec = read_spec(ROOT / "examples/cifar10_resnet18_paper.yaml")
    (hidden,) = spec.hidden
    assert spec.backbone.name == "resnet18"
    assert (hidden.kernel.name, hidden.kernel.pool) == ("relu_avgpool", 4)
    assert hidden.objective.name == "upper_alignment"
    recipe = hidden.recipe
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("sgd", 0.1, 0.9)
    assert (recipe.weight_decay, recipe.batch_size) == (6.25e-5, 128)
    assert (recipe.epochs, recipe.schedule, recipe.milestones) == (350, "multistep", (200, 300))
    assert (recipe.crop_padding, recipe.flip) == (4, True)
    assert spec.output is not None
    assert spec.output.labels_per_class == 1


def test_the_number_of_hidden_modules_is_enough() -> None:
    assert parse("name: net\nhidden: 3").hidden == (HiddenSpec(),) * 3
    jsonschema.validate({"name": "net", "hidden": 3}, json.loads(SCHEMA.read_text()))
    for wrong in ("0", "-1", "100000", "true", "three"):
        with pytest.raises(SpecError, match=r"net\.yaml: 'hidden'"):
            parse(f"name: net\nhidden: {wrong}")


def test_the_schema_file_is_up_to_date(tmp_path: Path) -> None:
    from modkernel.flows.cli.schema import schema

    schema(tmp_path / "schema.json")
    assert SCHEMA.read_text() == (tmp_path / "schema.json").read_text(), "run 'make schema'"


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "specs" / "a.yaml"
    file.parent.mkdir()
    file.write_text("name: a\ndataset: {name: image_folder, path: ../images}\npairs: pairs.csv\n")
    spec = read_spec(file)
    assert spec.dataset.path == str(tmp_path / "images")
    assert spec.pairs == str(tmp_path / "specs" / "pairs.csv")
    absolute = parse("name: a\ndataset: {name: arrays, path: /elsewhere/x.npz}")
    assert absolute.dataset.path == "/elsewhere/x.npz"


BAD = {
    "name: a\nname: b": "net.yaml, line 2, column 1: the key 'name' stands twice",
    "name: a\nhidden: [{recipe: {epochs: 1, epochs: 2}}]": "line 2, column 31: the key 'epochs'",
    "name: " + "[" * 5000: "lists and mappings are nested more than 50 deep",
    "\n".join(" " * i + "a:" for i in range(60)): "net.yaml, line 51, column 51: lists and",
    "name: a\nbackbone: {depth: 10000000}": "'backbone.depth' is 10000000: input should be less",
    "name: [": "net.yaml, line 1, column 8",
    "name: a\nseed: " + "9" * 5000: "net.yaml is not YAML: Exceeds the limit",
    "name: a\nseed: yes": "'seed' is 'yes': input should be a valid integer",
    "name: a\nseed: true": "net.yaml: 'seed' must be a number, not true or false",
    "name: a\noutput: {draws: true}": "'output.draws' must be a number, not true",
    "name: a\nhidden: [{recipe: {batch_size: true}}]": "'hidden[0].recipe.batch_size' is True",
    "name: a\nhidden: [{recipe: {epochs: true}}]": "'hidden[0].recipe.epochs' must be a number",
    "name: a\nhidden: [{recipe: {epochs: 1:30}}]": "'hidden[0].recipe.epochs' is '1:30'",
    "": "must be a mapping of fields (name, dataset",
    "- a": "not a list of 1",
    "{}": "'name' is missing",
    "name: Big": "'name' is 'Big', but allowed are lower-case letters",
    "name: a\nhiden: []": "unknown field 'hiden' (use one of name, dataset, backbone,",
    "name: a\nhidden: []": "'hidden' needs at least 1 item(s)",
    "name: a\nhidden: [{kernel: {nme: relu}}]": (
        "unknown field 'hidden[0].kernel.nme' (use one of name, pool, sigma, centres)."
    ),
    "name: a\noutput: {draws: 0}": "'output.draws' is 0: input should be greater than",
    "name: a\noutput: {method: svm}": "'cross_entropy', 'hinge' or 'ridge'",
    "name: a\ndataset: {classes: [1, 2]}": "'dataset.classes[0]' is 1, but must be text: put it in",
    "name: a\nhidden: [{recipe: {milestones: [3]}}]": "milestones go with schedule 'multistep'",
    "name: a\na: 1\nb: 1\nc: 1\nd: 1": "and 1 more",
    "a: !!python/object/apply:os.getcwd []": "could not determine a constructor for the tag",
    "name: \x00": "net.yaml is not YAML",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_spec_gets_one_sentence_with_the_place(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    message = str(caught.value)
    assert BAD[text] in message
    assert message.endswith(".")


LONG = "0,0,0 " * 500
ENDLESS = {
    f"a,b,c {LONG}": "pairs, train, seed), not 'a,b,c 0,0,0 0,0,0",
    f"? {LONG}\n: 1": "unknown field '0,0,0",
    f"? {LONG}\n: 1\n? {LONG}\n: 2": "the key '0,0,0",
    f"name: {LONG}": "'name' is '0,0,0",
    f"name: *{'a' * 5000}": "found undefined alias 'aaa",
    f"name: !{'a' * 5000} a": "could not determine a constructor for the tag '!aaa",
    f"name: 0x{'f' * 5000}": "'name' is a number too long to show, but must be text",
    f"name: a\nseed: {LONG}": "'seed' is '0,0,0",
    f"name: a\nhidden: {'9' * 4000}": "a network has 1 to 1000 hidden modules, not 999",
    f"name: a\nhidden: [{{tail: [{LONG}, 1]}}]": "'hidden[0].tail': [0, 0, ",
    f"name: a\ndataset: {{image_size: [{LONG}]}}": "'dataset.image_size': [0, 0,",
    f"name: a\ndataset: {{image_size: '{LONG}'}}": "'dataset.image_size': '0,0,0",
}


@pytest.mark.parametrize("text", ENDLESS, ids=range(len(ENDLESS)))
def test_no_message_shows_more_than_how_a_value_begins(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    message = str(caught.value)
    assert ENDLESS[text] in message
    assert len(message) < 300


def test_an_option_that_is_refused_is_named_once_with_what_was_given() -> None:
    allowed = "lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit."
    wrong = {
        (Name, "Mein Stitch"): f"'--name' is 'Mein Stitch', but allowed are {allowed}",
        (Name, 7): "'--name' is 7, but must be text: put it in quotes.",
        (Weights, ("1", "x")): "'--name[1]' is 'x': input should be a valid number, ",
    }
    for (kind, value), sentence in wrong.items():
        with pytest.raises(SpecError) as caught:
            validated(kind, value, "--name")
        assert str(caught.value).startswith(sentence)
    assert validated(Weights, ("1", "0.5"), "--weights") == (1, 0.5)
    with pytest.raises(SpecError, match=r"^option: 'name' is 'Big', but allowed are lower-case"):
        validated(NetworkSpec, {"name": "Big"}, "option")
    with pytest.raises(SpecError, match=r"^option: 'value_range' is .low, high. with"):
        validated(DatasetSpec, {"value_range": (2, 1)}, "option")


def test_a_link_stays_what_it_is_called(tmp_path: Path) -> None:
    """What it leads to next week is what a schedule then trains on."""
    for folder in ("first", "second", "elsewhere/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "latest").symlink_to("first")
    (tmp_path / "deep").symlink_to("elsewhere/deep")

    def stored(path: str) -> Path:
        file = tmp_path / "a.yaml"
        file.write_text(f"name: a\ndataset: {{name: image_folder, path: {path}}}\n")
        found = read_spec(file).dataset.path
        assert found is not None
        return Path(found)

    assert stored("latest") == stored("first/../latest") == tmp_path / "latest"
    assert stored("deep/../other").resolve() == tmp_path / "elsewhere" / "other"


def test_every_data_set_of_a_study_counts_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    (tmp_path / "more").mkdir()
    one = "{name: image_folder, path: PATH, image_size: 8, channels: 1}"
    file.write_text(
        f"name: a\ndataset: {one.replace('PATH', 'here')}\nhidden: {{}}\n"
        f"others:\n  - dataset: {one.replace('PATH', 'more')}\n"
    )
    spec = read_spec(file, StudySpec)
    assert spec.others[0].dataset.path == str(tmp_path / "more")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no spec file .*none\.yaml"):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="Cannot read the spec file"):
        read_spec(tmp_path)


@given(st.text(max_size=80))
def test_no_text_gives_anything_but_a_spec_or_a_spec_error(text: str) -> None:
    with suppress(SpecError):
        assert isinstance(parse(text), NetworkSpec)


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
    seed=st.integers(0, 2**31),
    epochs=st.lists(st.integers(1, 500), min_size=1, max_size=6),
    rate=st.floats(1e-6, 10),
)
def test_a_spec_survives_the_way_through_yaml(
    name: str, seed: int, epochs: list[int], rate: float
) -> None:
    hidden = [{"recipe": {"epochs": count, "learning_rate": rate}} for count in epochs]
    spec = NetworkSpec.model_validate({"name": name, "seed": seed, "hidden": hidden})
    text = yaml.safe_dump(spec.model_dump(mode="json"))
    assert parse(text) == spec
    assert parse(text).digest() == spec.digest()


def test_plain_words_are_what_they_look_like() -> None:
    text = """
        name: 2024-13-45
        seed: 010
        dataset: {name: image_folder, path: /x, classes: [no, yes, 001, 2026-11-28, 1_0, 1:30]}
        backbone: {name: 'a:b', options: {rate: 1e-3, many: 1_000, fast: true, none: off}}
        hidden: [{recipe: {flip: yes, learning_rate: 1e-3}}]
    """.replace("1_0,", "'10',")
    spec = parse(text)
    assert (spec.name, spec.seed) == ("2024-13-45", 10)
    assert spec.dataset.classes == ("no", "yes", "001", "2026-11-28", "10", "1:30")
    options = {"rate": 0.001, "many": 1000, "fast": True, "none": "off"}
    assert spec.backbone.options == options
    assert [type(value) for value in spec.backbone.options.values()] == [float, int, bool, str]
    assert (spec.hidden[0].recipe.flip, spec.hidden[0].recipe.learning_rate) == (True, 0.001)


@given(
    st.lists(
        st.one_of(
            st.from_regex(r"[-+]?[0-9._:eExX]{1,6}", fullmatch=True),
            st.sampled_from(["no", "on", "Yes", "null", "~", "<<", "=", "True", "", "2026-11-28"]),
            st.text(st.characters(codec="ascii", min_codepoint=32), max_size=5),
        ),
        min_size=2,
        unique=True,
    )
)
def test_texts_that_are_written_are_read_as_they_were(names: list[str]) -> None:
    text = as_yaml({"name": "a", "dataset": {"classes": names}})
    assert parse(text).dataset.classes == tuple(names)

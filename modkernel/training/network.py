"""A whole network, module by module, in this process and into a folder: no servers, no children.

The flows do the same with every module in a child process of its own, recorded and reusable.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from modkernel.control import UNWATCHED, Control
from modkernel.data import DataPlaces, Dataset, describe_dataset, load_dataset, place_dataset
from modkernel.errors import ArtifactError, DataError, SpecError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measure
from modkernel.lookup import import_paths, trusting
from modkernel.modules.network import Network, assemble
from modkernel.modules.stored import StoredModule, read_module, write_module
from modkernel.plan import output_spec, plan_network
from modkernel.reuse.moments_file import MOMENTS_FILE, write_moments
from modkernel.spec import HiddenModuleSpec, ModuleSpec, NetworkSpec, Recipe, Spec, pairs_from
from modkernel.spec.group import GroupSpec
from modkernel.system.files import replace_file
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training.hidden import train_hidden
from modkernel.training.inputs import labelled_data, pair_data, taking_part, unlabelled_examples
from modkernel.training.output import train_output
from modkernel.training.pair_data import PairData
from modkernel.training.parallel.ranks import ALONE, Ranks
from modkernel.training.report import TrainReport
from modkernel.training.together import train_together, write_group

REPORTS = "reports"
"""Folder of the modules' reports: each is written before its module."""
FEATURE_BYTES = 10 << 30
"""Bytes of features that are kept on disk while a network is trained, as flows do by default."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The modules of a network in order, each with how it was trained."""

    modules: tuple[StoredModule, ...]
    reports: tuple[TrainReport, ...]

    def assemble(self) -> Network:
        """The network that they make up; see `modkernel.assemble`."""
        return assemble(self.modules)


def train_network(
    spec: NetworkSpec,
    folder: Path | str,
    places: DataPlaces | None = None,
    *,
    device: str = "auto",
    control: Control = UNWATCHED,
    ranks: Ranks = ALONE,
) -> TrainedNetwork:
    """Train a network's modules one after the other, each into a folder below `folder`.

    With `train: together` all hidden modules are trained in one pass; see `train_together`.

    A module that is there already, of this very recipe and data, is read and not trained again:
    an interrupted call resumes with the module that it was at. Hidden modules of labelled data
    leave their class moments too, which tell what they are worth for another task.

    Args:
        spec: of the network.
        folder: made if need be. Each module gets a folder in it, `hidden-1`, `hidden-2`, … and
            `output`, with `weights.safetensors` and `spec.json`; `reports` has how each was
            trained.
        places: of data sets; `data` and `cache` in the folder if left out.
        device: 'auto', 'cpu', 'cuda' or 'cuda:K'.
        control: progress and stop; with a folder of checkpoints, an interrupted module resumes
            from its last one.
        ranks: processes that train hidden modules together, on a device each; all of them call this
            with the same arguments but for the device, and get the same network. The first one
            alone writes, and trains the output module. See `modkernel.training.parallel.join`.

    Raises:
        ModkernelError: bad specs or data, before anything is trained; numbers that are not finite;
            a folder that cannot be written, or that holds another module.
    """
    with trusting(import_paths(spec)):
        return _train(spec, Path(folder), places, device, control, ranks)


def _train(
    spec: NetworkSpec,
    folder: Path,
    places: DataPlaces | None,
    device: str,
    control: Control,
    ranks: Ranks,
) -> TrainedNetwork:
    if spec.in_one_pass and ranks.size > 1:
        raise SpecError(
            "Modules that are trained together are trained by one process: set 'train: in turn' to "
            "share each of them out to several devices, or start one process."
        )
    places = places or DataPlaces(root=folder / "data", cache=folder / "cache")
    info = describe_dataset(spec.dataset, places)
    plans = plan_network(spec, info)
    views = pairs_from(spec.pairs).views
    spread = spec.output is not None and spec.output.spread_labels
    data = load_dataset(spec.dataset, places, unlabelled=views or spread)
    if data.fingerprint != info.fingerprint:
        raise DataError(
            f"Data set '{data.name}' has changed while this training was planned, or its loader "
            "gives other examples every time: have it give the same ones, and run this again."
        )
    aside = None if spec.output is None else taking_part(data, spec.output, given=None)
    placed = place_dataset(data, choose_arithmetic(device).device)
    work = _Folder(folder, placed, device, control, ranks)
    train, validation, known = pair_data(work.data, spec.dataset, spec.pairs, places)
    chain: list[StoredModule] = []
    reports: list[TrainReport] = []
    if spec.in_one_pass:
        on = info.preprocessing
        group = GroupSpec.of([plan.spec(on.id, on, known, spec.seed) for plan in plans])
        for stored, report in work.group(group, (train, validation)):
            chain.append(stored)
            reports.append(report)
    else:
        for number, plan in enumerate(plans, start=1):
            upstream = chain[-1].id if chain else info.preprocessing.id
            module = plan.spec(upstream, info.preprocessing, known, spec.seed)
            stored, report = work.hidden(f"hidden-{number}", module, (train, validation), chain)
            chain.append(stored)
            reports.append(report)
    if spec.output is not None:
        last = output_spec(
            spec.output,
            chain[-1].spec,
            chain[-1].id,
            info,
            spec.seed,
            unlabelled_fingerprint=aside,
        )
        stored, report = work.output("output", last, chain)
        chain.append(stored)
        reports.append(report)
    return TrainedNetwork(tuple(chain), tuple(reports))


@dataclass(frozen=True)
class _Folder:
    """Where modules are trained into, and what with."""

    folder: Path
    data: Dataset
    device: str
    control: Control
    ranks: Ranks

    @property
    def cache(self) -> FeatureCache:
        return FeatureCache(self.folder / "features", FEATURE_BYTES)

    def hidden(
        self,
        name: str,
        spec: HiddenModuleSpec,
        pairs: tuple[PairData, PairData],
        chain: list[StoredModule],
    ) -> tuple[StoredModule, TrainReport]:
        found = self._find(name, spec)
        arithmetic, control = self._for(name, spec, spec.recipe)
        if found is not None:
            if self.ranks.first:
                self._measure([*chain, found[0]], arithmetic)
            return found
        weights, report = train_hidden(
            spec,
            *pairs,
            chain,
            arithmetic=arithmetic,
            control=control,
            cache=self.cache,
            ranks=self.ranks,
        )
        if not self.ranks.first:
            return self._written(name, spec)
        stored = self._write(name, spec, weights, report)
        self._measure([*chain, stored], arithmetic)
        self.ranks.wait()
        return stored, report

    def group(
        self, group: GroupSpec, pairs: tuple[PairData, PairData]
    ) -> list[tuple[StoredModule, TrainReport]]:
        """All modules of a group: found if all are there, or else trained."""
        found: list[tuple[StoredModule, TrainReport]] = []
        for index in range(len(group.modules)):
            member = group.member(index, found[-1][0].id if found else "")
            there = self._find(f"hidden-{index + 1}", member)
            if there is None:
                break
            found.append(there)
        arithmetic, control = self._for("together", group, group.modules[0].recipe)
        if len(found) == len(group.modules):
            self._measure_all([stored for stored, _ in found], arithmetic)
            return found
        trained = train_together(
            group, *pairs, arithmetic=arithmetic, control=control, cache=self.cache
        )
        for stored, _ in found:  # Of a pass that was killed while it wrote: its others are lost.
            shutil.rmtree(stored.folder)
        done = write_group(self.folder, group, trained, self._write_report)
        self._measure_all([stored for stored, _ in done], arithmetic)
        return done

    def _measure_all(self, modules: list[StoredModule], arithmetic: Arithmetic) -> None:
        for count in range(1, len(modules) + 1):
            self._measure(modules[:count], arithmetic)

    def _measure(self, chain: list[StoredModule], arithmetic: Arithmetic) -> None:
        """Leave the class moments of the last one, unless they are there."""
        file = chain[-1].folder / MOMENTS_FILE
        if self.data.train.labels is None or file.exists():
            return
        try:
            stop = self.control.stop
            write_moments(file, measure(chain, self.data, arithmetic, cache=self.cache, stop=stop))
        except StoppedError:
            raise
        except Exception as error:  # The module is there all the same.
            file.unlink(missing_ok=True)
            why = str(error) or type(error).__name__
            self.control.progress({"event": "note", "text": f"The module is not measured: {why}"})

    def output(
        self, name: str, spec: ModuleSpec, chain: list[StoredModule]
    ) -> tuple[StoredModule, TrainReport]:
        found = self._find(name, spec)
        if found is not None:
            return found
        if not self.ranks.first:
            return self._written(name, spec)
        arithmetic, control = self._for(name, spec, spec.recipe)
        train, test, validation = labelled_data(self.data)
        weights, report = train_output(
            spec,
            train,
            test,
            chain,
            validation=validation,
            unlabelled=unlabelled_examples(self.data),
            arithmetic=arithmetic,
            control=control,
            cache=self.cache,
        )
        stored = self._write(name, spec, weights, report)
        self.ranks.wait()
        return stored, report

    def _for(self, name: str, spec: Spec, recipe: Recipe) -> tuple[Arithmetic, Control]:
        control, checkpoints = self.control, self.control.checkpoints
        if checkpoints is not None:
            control = replace(control, checkpoints=checkpoints / f"{name}-{spec.digest()[:12]}")
        return choose_arithmetic(self.device, recipe.precision), control

    def _find(self, name: str, spec: ModuleSpec) -> tuple[StoredModule, TrainReport] | None:
        """What is there of this recipe for all processes; none where there is nothing yet.

        None of them goes on, and writes it, before all have looked.
        """
        found = self._read(name, spec)
        return None if self.ranks.any(found is None) else found

    def _read(self, name: str, spec: ModuleSpec) -> tuple[StoredModule, TrainReport] | None:
        module = self.folder / name
        if not module.is_dir():
            return None
        stored = read_module(module)
        if stored.spec_sha256 != spec.digest():
            raise ArtifactError(
                f"{module} holds a module of another recipe or other data: name another folder, "
                "or remove that one."
            )
        return stored, TrainReport.model_validate_json(self._report(name).read_bytes())

    def _written(self, name: str, spec: ModuleSpec) -> tuple[StoredModule, TrainReport]:
        """What the first process has written of this recipe, once it has."""
        self.ranks.wait()
        found = self._read(name, spec)
        assert found is not None, "the first process waits for the others when it has written"
        return found

    def _report(self, name: str) -> Path:
        return self.folder / REPORTS / f"{name}.json"

    def _write(
        self, name: str, spec: ModuleSpec, weights: dict[str, Tensor], report: TrainReport
    ) -> StoredModule:
        self._write_report(name, report)
        return write_module(self.folder / name, spec, weights)

    def _write_report(self, name: str, report: TrainReport) -> None:
        replace_file(self._report(name), report.model_dump_json(indent=1).encode())

"""Bundles in a folder that registries share, or that a web server shows."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from modkernel.errors import AmbiguousError, BundleError, ModkernelError, NotFoundError
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.bundles.exchange import INDEX, Index, pull, push
from modkernel.system.files import UNFINISHED
from tests.registry.helpers.bundles import left_files, rows
from tests.registry.helpers.stored_homes import made_once, opened_copy


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


class BreaksOff(Quiet):
    """Closes the connection after a part of what it announces."""

    part, ends = 5000, ".mkb"

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read(self.part if self.path.endswith(self.ends) else -1))


class BreaksOffUnannounced(BreaksOff):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


class BreaksOffAtOnce(BreaksOff):
    part, ends = 10, ".json"


@contextmanager
def shown(folder: Path, server_kind: type[Quiet] = Quiet) -> Iterator[str]:
    """Address of a web server that shows a folder."""
    handler = partial(server_kind, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read_index(folder: Path) -> Index:
    return Index.model_validate_json((folder / INDEX).read_bytes())


@pytest.mark.home("bundle")
def test_what_one_pushes_another_pulls(registry: Registry, other: Registry, tmp_path: Path) -> None:
    made, share = registry.networks.resolve("net"), tmp_path / "a" / "share"
    pushed = push(registry, "net", str(share))
    assert (pushed.manifest.id, pushed.is_new, pushed.path.name) == (
        made.id,
        True,
        f"{made.id}.mkb",
    )
    before = {path: path.read_bytes() for path in share.iterdir()}
    assert not push(registry, made.id[:8], str(share)).is_new
    assert {path: path.read_bytes() for path in share.iterdir()} == before
    listed = read_index(share).bundles[made.id]
    assert (listed.kind, listed.name, listed.data) == ("network", "net", "digits")
    assert listed.modules == made.module_ids
    with shown(share) as address:
        found = pull(other, "net", f"{address}/")
    assert found.network is not None
    assert found.network.id == made.id
    assert not list(other.settings.work_dir.iterdir())
    assert pull(other, made.id, str(share)).new == frozenset()


@pytest.mark.home("bundle")
def test_a_push_removes_what_a_killed_one_left_and_nothing_that_is_being_written(
    registry: Registry, tmp_path: Path
) -> None:
    names = (f"{'a' * 64}.mkb", INDEX)
    left, live = (
        [tmp_path / f".{name}.{digit * 32}{UNFINISHED}" for name in names] for digit in "01"
    )
    others = [tmp_path / name for name in (".notes.mkb.tmp", f".notes.txt.{'0' * 32}.tmp")]
    for path in (*left, *live, *others):
        path.write_bytes(b"half a file")
    for path in (*left, *others):
        os.utime(path, (0, 0))
    push(registry, "net", str(tmp_path))
    hidden = {path for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == {*live, *others}


@pytest.mark.home("bundle")
def test_an_index_that_cannot_be_written_is_told_with_what_to_do(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / INDEX).mkdir()
    with pytest.raises(BundleError, match=r"mkb is in .*, but cannot be listed .* owner push"):
        push(registry, "net", str(tmp_path))


@pytest.mark.home("versions")
def test_a_name_means_what_was_pushed_last(
    registry: Registry, other: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    first, second, _ = records
    push(registry, first.id, str(tmp_path / "share"))
    os.utime(tmp_path / "share" / f"{first.id}.mkb", (0, 0))
    push(registry, second.id, str(tmp_path / "share"))
    assert set(read_index(tmp_path / "share").bundles) == {first.id, second.id}
    assert pull(other, "net.hidden-1", str(tmp_path / "share")).new == {second.id}
    assert pull(other, first.id[:10], str(tmp_path / "share")).new == {first.id}


@pytest.mark.home("versions")
def test_all_that_is_pushed_at_once_is_in_the_index(
    registry: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda record: push(registry, record.id, str(tmp_path / "share")), records))
    assert set(read_index(tmp_path / "share").bundles) == {record.id for record in records}
    (tmp_path / "share" / f"{records[0].id}.mkb").unlink()
    (tmp_path / "share" / f"{'f' * 64}.mkb").write_bytes(b"half a file")
    push(registry, records[1].id, str(tmp_path / "share"))
    assert set(read_index(tmp_path / "share").bundles) == {record.id for record in records[1:]}


@pytest.fixture
def share(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A folder with two bundles."""

    def make(folder: Path) -> None:
        with opened_copy(tmp_path_factory, "versions") as registry:
            for record in registry.modules.find()[:2]:
                push(registry, record.id, str(folder))

    made = made_once(tmp_path_factory, "two-bundles", make)
    return Path(shutil.copytree(made, tmp_path / "share"))


def swapped(share: Path) -> None:
    first, second = sorted(share.glob("*.mkb"))
    first.write_bytes(second.read_bytes())


def other_size(share: Path) -> None:
    _change(share, lambda listed: listed | {"size": listed["size"] - 1})


def grown(share: Path) -> None:
    for path in share.glob("*.mkb"):
        path.write_bytes(path.read_bytes() + bytes(10**6))


def other_id(share: Path) -> None:
    """An index under whose ids there are other bundles, with the hashes of these."""
    value = json.loads((share / INDEX).read_text())
    first, second = sorted(value["bundles"])
    swapped(share)
    value["bundles"][first] = value["bundles"][second]
    (share / INDEX).write_text(json.dumps(value))


def outside(share: Path) -> None:
    value = json.loads((share / INDEX).read_text())
    value["bundles"] = {"../../secret": next(iter(value["bundles"].values()))}
    (share / INDEX).write_text(json.dumps(value))


def _change(share: Path, change: Any) -> None:
    value = json.loads((share / INDEX).read_text())
    value["bundles"] = {key: change(listed) for key, listed in value["bundles"].items()}
    (share / INDEX).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (swapped, "another file than index.json says"),
        (other_size, "another file than index.json says"),
        (grown, "another file than index.json says"),
        (other_id, "not of"),
        (outside, "index.json is not what modkernel writes"),
        (lambda share: (share / INDEX).write_bytes(b"[" * 100_000), "cannot be read as JSON"),
        (lambda share: (share / INDEX).unlink(), "404"),
        (lambda share: [path.unlink() for path in share.glob("*.mkb")], "404"),
    ],
)
def test_a_folder_that_lies_is_refused(
    share: Path, other: Registry, change: Any, told: str
) -> None:
    first = sorted(read_index(share).bundles)[0]
    change(share)
    with shown(share) as address, pytest.raises(ModkernelError, match=told) as caught:
        pull(other, first, address)
    assert isinstance(caught.value, BundleError)
    refusal = caught.value.__cause__
    assert not isinstance(refusal, HTTPError) or refusal.closed
    assert rows(other) == {}
    assert left_files(other) == []
    assert not list(other.settings.work_dir.iterdir())


@pytest.mark.parametrize("kind", [BreaksOff, BreaksOffUnannounced, BreaksOffAtOnce])
def test_a_transfer_that_breaks_off_is_told_as_such(
    share: Path, other: Registry, kind: type[BreaksOff]
) -> None:
    first = sorted(read_index(share).bundles)[0]
    name = INDEX if kind is BreaksOffAtOnce else f"{first}.mkb"
    whole = (share / name).stat().st_size
    told = rf"{name} broke off after {kind.part} of {whole} bytes\. Try again\.$"
    with shown(share, kind) as address, pytest.raises(BundleError, match=told):
        pull(other, first, address)
    assert (rows(other), left_files(other)) == ({}, [])
    assert not list(other.settings.work_dir.iterdir())


def test_what_is_not_there_is_told(share: Path, other: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"answers to 'nobody', which has 'net\.hidden-1'"):
        pull(other, "nobody", str(share))
    with pytest.raises(BundleError, match=r"index\.json: No such file"):
        pull(other, "net", str(tmp_path / "none"))
    with pytest.raises(BundleError, match=r"Cannot get http://127\.0\.0\.1:9/\?token=\*\*\*"):
        pull(other, "net", "http://127.0.0.1:9/?token=secret")
    with pytest.raises(BundleError, match="cannot be written to"):
        push(other, "net", "https://example.com/share")
    value = json.loads((share / INDEX).read_text())
    ids = ["abcdef" + "0" * 58, "abcdef" + "1" * 58]
    value["bundles"] = dict(zip(ids, value["bundles"].values(), strict=True))
    (share / INDEX).write_text(json.dumps(value))
    with pytest.raises(AmbiguousError, match="write more digits"):
        pull(other, "abcdef", str(share))


def test_a_login_in_the_address_is_refused_and_not_told(other: Registry) -> None:
    with pytest.raises(BundleError, match="has a login in it") as refused:
        pull(other, "net", "https://anna:s3cret@127.0.0.1:1/bundles")
    assert "s3cret" not in str(refused.value)

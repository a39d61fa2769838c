"""The feature cache: bounded, shared by processes that are killed, and never half-written."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modkernel.errors import DataError, StoppedError
from modkernel.features import cache as feature_cache
from modkernel.features.cache import VALUES, FeatureCache, FeatureKey, NoRoomError
from modkernel.system.locks import locked
from tests.modkernel.helpers.cache_process import WIDTH, Askers, Asking, key, rows
from tests.modkernel.test_child import until

ROW = 4 * WIDTH
PLENTY = 1 << 30


def fill(cache: FeatureCache, name: str, count: int = 8) -> Tensor:
    return cache.find_or_make(key(name), count, lambda: iter(rows(name, count).split(3)))[VALUES]


def refuse() -> Iterator[Tensor]:
    pytest.fail("it is kept, and need not be made")


def files(folder: Path, suffix: str = ".safetensors") -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == suffix]


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture(scope="module")
def askers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Askers]:
    askers = Askers(tmp_path_factory.mktemp("askers"))
    yield askers
    askers.close()


def wait_for(process: Asking, event: str) -> None:
    if all(said["event"] != event for said in process.said):
        pytest.fail(f"no {event}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_is_found_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", PLENTY)
    values = torch.randn(10, 3, 5, 5).to(dtype)
    blocks = [block.to(memory_format=torch.channels_last) for block in values.split(4)]
    labels = torch.arange(10)
    assert cache.find(key("a")) is None
    made = cache.find_or_make(key("a"), 10, lambda: iter(blocks), {"labels": labels})
    again = cache.find_or_make(key("a"), 10, refuse)
    found = cache.find(key("a"))
    for kept in (made, again, found):
        assert kept is not None
        assert kept[VALUES].dtype == dtype
        assert torch.equal(kept[VALUES], values)
        assert torch.equal(kept["labels"], labels)
    (file,) = files(cache.folder)
    assert load_file(file).keys() == {VALUES, "labels"}, "a file like any other"


def test_every_part_of_a_key_tells_features_apart() -> None:
    parts = {"module": "m", "data": "d", "split": "s", "transform": "t", "dtype": "f"}
    keys = [FeatureKey(**parts)] + [FeatureKey(**{**parts, name: "other"}) for name in parts]
    assert len({one.digest() for one in keys}) == 6


def test_another_number_of_examples_is_made_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    fill(cache, "a", 8)
    assert torch.equal(fill(cache, "a", 9), rows("a", 9))


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    fill(cache, "a")
    (file,) = files(tmp_path)
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[:-5]):
        file.unlink()
        file.write_bytes(damaged)
        assert cache.find(key("a")) is None
        assert torch.equal(fill(cache, "a"), rows("a", 8))


def test_a_damaged_file_leaves_its_room_to_what_replaces_it(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10 * ROW)
    fill(cache, "a")
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    assert torch.equal(fill(cache, "a"), rows("a", 8))
    assert torch.equal(fill(cache, "a", 9), rows("a", 9)), "nor does another number of examples"


def test_features_of_another_format_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, PLENTY)
    fill(cache, "a")
    monkeypatch.setattr(feature_cache, "FEATURE_FORMAT", feature_cache.FEATURE_FORMAT + 1)
    assert cache.find(key("a")) is None


def test_no_examples_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no examples"):
        FeatureCache(tmp_path, PLENTY).find_or_make(key("a"), 0, lambda: iter(()))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 3 * 8 * ROW + 3 * 1024)
    for name in "abc":
        fill(cache, name)
    assert cache.find(key("a")) is not None  # so that b is the oldest
    fill(cache, "d")
    assert [cache.find(key(name)) is not None for name in "abcd"] == [True, False, True, True]
    locks = [path for path in tmp_path.iterdir() if key("b").digest() in path.name]
    assert not locks, "its locks went with it"


def test_the_limit_holds_through_any_history(tmp_path: Path) -> None:
    limit = 20 * ROW
    cache = FeatureCache(tmp_path, limit)
    draw = random.Random(0)
    for _ in range(60):
        name, count = draw.choice("abcdefgh"), draw.randint(1, 9)
        assert torch.equal(fill(cache, name, count), rows(name, count))
        assert taken(tmp_path) <= limit


def test_evicted_values_stay_with_whoever_has_them(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10 * ROW)
    mine = fill(cache, "a")
    fill(cache, "b")
    assert cache.find(key("a")) is None
    assert torch.equal(mine, rows("a", 8))


def test_what_exceeds_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10 * ROW)
    fill(cache, "a")
    with pytest.raises(NoRoomError, match="more than the cache may take"):
        fill(cache, "b", 11)
    assert cache.find(key("a")) is not None, "nothing had to go for it"
    assert not files(tmp_path, ".tmp")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = FeatureCache(tmp_path, PLENTY)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match="No space left"):
        fill(cache, "a")
    assert taken(tmp_path) == 0


def test_an_error_while_computing_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[Tensor]:
        yield rows("a", 2)
        raise ZeroDivisionError

    cache = FeatureCache(tmp_path, PLENTY)
    with pytest.raises(ZeroDivisionError):
        cache.find_or_make(key("a"), 8, broken)
    assert taken(tmp_path) == 0
    assert torch.equal(fill(cache, "a"), rows("a", 8)), "and no lock is held"


def test_one_process_computes_and_the_others_wait(askers: Askers, tmp_path: Path) -> None:
    processes = [askers.start(tmp_path, PLENTY, "a", 20, 0.02) for _ in range(3)]
    seen = [list(process.said) for process in processes]
    assert all(lines[-1] == {"event": "done", "right": True} for lines in seen)
    computed = [sum(line["event"] == "block" for line in lines) for lines in seen]
    assert sorted(computed) == [0, 0, 20]


def test_a_killed_writer_leaves_nothing_under_a_real_name(askers: Askers, tmp_path: Path) -> None:
    process = askers.start(tmp_path, PLENTY, "a", 1000, 0.05)
    wait_for(process, "block")
    until(lambda: files(tmp_path, ".tmp"))
    process.kill()
    assert files(tmp_path, ".tmp")
    assert not files(tmp_path)
    cache = FeatureCache(tmp_path, PLENTY)
    assert cache.find(key("a")) is None
    fill(cache, "b")
    assert not files(tmp_path, ".tmp"), "whoever writes next sweeps it, whatever the key"
    assert torch.equal(fill(cache, "a"), rows("a", 8))


def test_a_waiter_takes_over_where_the_writer_was_killed(askers: Askers, tmp_path: Path) -> None:
    process = askers.start(tmp_path, PLENTY, "a", 1000, 0.05)
    wait_for(process, "block")
    got: list[Tensor] = []
    waiter = threading.Thread(target=lambda: got.append(fill(FeatureCache(tmp_path, PLENTY), "a")))
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive(), "it waits"
    process.kill()
    waiter.join(30)
    assert torch.equal(got[0], rows("a", 8))
    assert not files(tmp_path, ".tmp")


def test_what_is_being_written_is_not_evicted(askers: Askers, tmp_path: Path) -> None:
    """The writer takes six of ten rows; another wants six while it writes, and does without."""
    limit = 10 * ROW
    process = askers.start(tmp_path, limit, "a", 6, 0.3)
    wait_for(process, "block")
    until(lambda: files(tmp_path, ".tmp"))
    with pytest.raises(NoRoomError, match="in use by other processes"):
        fill(FeatureCache(tmp_path, limit), "b", 6)
    assert taken(tmp_path) <= limit
    assert list(process.said)[-1] == {"event": "done", "right": True}


def test_what_is_waited_for_is_not_evicted_before_it_is_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, 10 * ROW)
    fill(cache, "a")
    digest = key("a").digest()
    with locked(tmp_path / f".{digest}.users", lambda: None, shared=True):
        with pytest.raises(NoRoomError, match="in use by other processes"):
            fill(cache, "b")
        assert cache.find(key("a")) is not None
    fill(cache, "b")
    assert cache.find(key("a")) is None


def test_a_wait_can_be_stopped(askers: Askers, tmp_path: Path) -> None:
    process = askers.start(tmp_path, PLENTY, "a", 1000, 0.05)
    wait_for(process, "block")
    with pytest.raises(StoppedError, match="another process"):
        FeatureCache(tmp_path, PLENTY).find_or_make(key("a"), 8, refuse, stop=lambda: True)
    process.kill()


def test_many_processes_within_one_limit(askers: Askers, tmp_path: Path) -> None:
    """Every answer is right, and the folder stays within its limit while they come and go."""
    limit = 18 * ROW
    processes = [askers.start(tmp_path, limit, name, 8, 0.01) for name in "abca"]
    largest = 0
    while any(process.alive() for process in processes):
        time.sleep(0.002)
        sizes = []
        for path in tmp_path.iterdir():
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        largest = max(largest, sum(sizes))
    ends = [list(process.said)[-1] for process in processes]
    assert all(end in ({"event": "done", "right": True}, {"event": "no room"}) for end in ends)
    assert sum(end["event"] == "done" for end in ends) >= 2
    assert 0 < largest <= limit

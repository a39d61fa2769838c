"""`bundle`, `push` and `pull` as a person types them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.flows.test_cli import Run, home, run
from tests.registry.helpers.stored_homes import copy_home

__all__ = ["home", "run"]


def test_a_network_goes_to_another_home(
    run: Run,
    home: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_home(tmp_path_factory, "bundle", home)
    key, file, share = (str(tmp_path / name) for name in ("key", "net.mkb", "share"))
    public = json.loads(run("bundle", "key", key, "--json").out)
    written = json.loads(run("bundle", "export", "net", file, "--sign", key, "--json").out)
    made = json.loads(run("networks", "show", "net", "--json").out)
    assert (written["id"], written["modules"]) == (made["id"], made["module_ids"])
    assert written["size_bytes"] == Path(file).stat().st_size
    hub = run("bundle", "export", "net", str(tmp_path / "hub"), "--form", "huggingface")
    assert "net (" in hub.out
    assert (tmp_path / "hub" / "config.json").exists()
    refused = run("bundle", "export", "net", share, "--form", "huggingface", "--sign", key)
    assert refused.code == 2
    assert json.loads(run("push", "net", share, "--json").out)["new"] is True
    assert "was there" in run("push", "net", share).out

    copy_home(tmp_path_factory, "empty", tmp_path / "other")
    monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("MODKERNEL_TRUSTED_KEYS", f"{key}.pub")
    unsigned = run("pull", "net", share)
    assert unsigned.code == 1
    assert "Nobody signed this bundle, and MODKERNEL_TRUSTED_KEYS names" in unsigned.err
    done = run("bundle", "import", file)
    assert done.code == 0
    assert done.out.count("new") == 5
    assert f"Signed with key {public['fingerprint']}." in done.err
    again = json.loads(run("bundle", "import", file, "--json").out)
    assert [module["new"] for module in again["modules"]] == [False] * 3
    assert (again["network_is_new"], again["signer"]) == (False, public["fingerprint"])
    Path(file).write_bytes(b"PK" * 100)
    refused = run("bundle", "import", file)
    assert refused.code == 1
    assert "no bundle" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_what_is_pushed_has_the_rights_that_the_user_gives(
    umask: int,
    rights: int,
    run: Run,
    home: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    copy_home(tmp_path_factory, "bundle", home)
    share = tmp_path / "share"
    before = os.umask(umask)
    try:
        assert run("push", "net", str(share)).code == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in share.iterdir()} == {rights}
    assert share.stat().st_mode & 0o777 == 0o777 & ~umask
    assert (home / "registry.db").stat().st_mode & 0o077 == 0


def test_ctrl_c_during_a_push_leaves_no_half_and_says_so(
    run: Run,
    home: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_home(tmp_path_factory, "bundle", home)
    share = tmp_path / "share"
    monkeypatch.setattr("modkernel.registry.bundles.write.write_bundle", interrupted)
    done = run("push", "net", str(share))
    assert (done.code, done.out) == (130, "")
    told = f"no bundle is left half-written in {share}, and the same command does the rest."
    assert done.err == f"modkernel: Interrupted: {told}\n"
    assert list(share.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("MODKERNEL_HOME", str(home))
    assert run("push", "net", str(share)).code == 0


def test_ctrl_c_during_an_import_says_what_the_same_command_does(
    run: Run,
    home: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_home(tmp_path_factory, "bundle", home)
    file, share = str(tmp_path / "net.mkb"), str(tmp_path / "share")
    assert run("bundle", "export", "net", file).code == 0
    assert run("push", "net", share).code == 0
    copy_home(tmp_path_factory, "empty", tmp_path / "other")
    monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "other"))
    told = "what is stored by now stays, and the same command stores the rest."
    for arguments in (("pull", "net", share), ("bundle", "import", file)):
        with monkeypatch.context() as patch:
            patch.setattr("modkernel.registry.networks.Networks.add", interrupted)
            done = run(*arguments)
        assert (done.code, done.out) == (130, "")
        assert done.err == f"modkernel: Interrupted: {told}\n"
        assert len(json.loads(run("modules", "list", "--json").out)) == 3
    assert "network net: new" in run("pull", "net", share).out


def interrupted(path: object, *_: object) -> None:
    if isinstance(path, Path):
        path.write_bytes(b"half a file")
    raise KeyboardInterrupt

"""`bundle`, `push` and `pull` as a person types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modkernel.registry import Registry, Settings
from tests.flows.test_cli import Run, empty_stores, home, run, stores
from tests.registry.helpers.bundles import store_network
from tests.registry.helpers.examples import Examples

__all__ = ["empty_stores", "home", "run", "stores"]


def test_a_network_goes_to_another_home(
    run: Run,
    stores: Path,
    empty_stores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Registry.open(Settings(home=stores)) as registry:
        made = store_network(registry, Examples(tmp_path / "trained"), tmp_path)
    key, file, share = (str(tmp_path / name) for name in ("key", "net.mkb", "share"))
    public = json.loads(run("bundle", "key", key, "--json").out)
    written = json.loads(run("bundle", "export", "net", file, "--sign", key, "--json").out)
    assert (written["id"], written["modules"]) == (made.id, list(made.module_ids))
    assert written["size_bytes"] == Path(file).stat().st_size
    hub = run("bundle", "export", "net", str(tmp_path / "hub"), "--form", "huggingface")
    assert "net (" in hub.out
    assert (tmp_path / "hub" / "config.json").exists()
    refused = run("bundle", "export", "net", share, "--form", "huggingface", "--sign", key)
    assert refused.code == 2
    assert json.loads(run("push", "net", share, "--json").out)["new"] is True
    assert "was there" in run("push", "net", share).out

    shutil.copytree(empty_stores, tmp_path / "other")
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

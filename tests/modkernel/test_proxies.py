from __future__ import annotations

import pytest

from modkernel.system import proxies
from modkernel.system.proxies import ask_directly

OURS = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, OURS),
        ({"NO_PROXY": "intranet.example, localhost"}, "intranet.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, f"a.example,b.example,{OURS}"),
        ({"no_proxy": "*,a.example"}, "*"),
    ],
)
def test_this_machine_is_asked_directly(before: dict[str, str], after: str) -> None:
    environment = dict(before)
    ask_directly(environment)
    assert environment == {"NO_PROXY": after, "no_proxy": after}


@pytest.mark.parametrize("there", [False, True])
def test_a_socks_proxy_is_left_only_where_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: object() if there else None)
    http = {"HTTP_PROXY": "http://proxy.example:3128"}
    socks = {"ALL_PROXY": "socks5://proxy.example:1080", "https_proxy": "SOCKS5h://x:1"}
    environment = http | socks
    ask_directly(environment)
    assert environment.items() >= http.items()
    assert set(socks) & set(environment) == (set(socks) if there else set())

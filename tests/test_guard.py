"""Where requests may lead: addresses of all kinds, and answers that send the client on, in this process."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import PEER
from tests.hub import Hub

pytest.importorskip("huggingface_hub")

from huggingface_hub.utils import get_session

from weightkit.blobs import guard, near


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    served = Hub(tmp_path_factory.mktemp("served") / "hub").start()
    shutil.copytree(PEER / "diffs" / "knowlm", served.root / "org" / "diff")
    yield served
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize(
    ("address", "is_near"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("0.0.0.0", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("224.0.0.1", True),
        ("255.255.255.255", True),
        ("::1", True),
        ("::", True),
        ("fe80::1%eth0", True),
        ("fc00::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("64:ff9b::7f00:1", True),
        ("2002:7f00:1::", True),
        ("93.184.215.14", False),
        ("::ffff:93.184.215.14", False),
        ("64:ff9b::5db8:d70e", False),
        ("2606:4700::1111", False),
        ("198.18.0.7", False),  # what a tunnel answers for every name
    ],
)
def test_addresses(address: str, is_near: bool) -> None:
    assert near.is_near(address) == is_near


def test_literals_and_names() -> None:
    for host in (
        "198.18.0.7",
        "127.1",
        "2130706433",
        "0x7f000001",
        "localhost",
        "a.localhost",
        "x.internal",
        "[::1]",
        "LOCALHOST.",
    ):
        assert near.is_here(host), host
    for host in ("example.org", "93.184.215.14", "1.example.org"):
        assert not near.is_here(host), host


def test_an_address_of_this_machine_that_is_public() -> None:
    """Whatever its interfaces have; only they are the machine's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("93.184.215.14", 9))
        except OSError:
            pytest.skip("no route anywhere")
        own = probe.getsockname()[0]
    assert near.is_own(own)
    assert not near.is_own("93.184.215.14")


def watched(endpoint: str) -> Any:
    return guard.watch(type(get_session())(), lambda: endpoint)


def test_the_endpoint_may_be_here_and_nothing_else_and_only_while_weightkit_asks(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *words, **more: real("127.0.0.1" if host == "cdn.example.org" else host, *words, **more),
    )
    url, elsewhere = f"{hub.url}/api/models/org/diff", f"http://cdn.example.org:{hub.server_port}/api/models/org/diff"
    with watched(hub.url) as session:
        with guard.asking():
            assert session.get(url).status_code == 200
            hub.asked.clear()
            with pytest.raises(near.Forbidden, match=r"cdn\.example\.org.*127\.0\.0\.1"):
                session.get(elsewhere)
        assert not hub.asked
        assert session.get(elsewhere).status_code == 200


def test_a_mirror_sends_nobody_to_a_store(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetches from a Xet store is not Python, and is not seen."""
    monkeypatch.setattr(hub, "store", "http://127.0.0.1:1")
    file, token = f"{hub.url}/org/diff/resolve/main/pytorch_model.bin", f"{hub.url}/api/models/org/diff/xet-read-token/main"
    with watched(hub.url) as session:
        with guard.asking():
            assert "X-Xet-Hash" not in session.head(file).headers
            hub.store = "https://169.254.169.254"
            with pytest.raises(near.Forbidden, match=r"169\.254"):
                session.get(token)
            hub.store = "https://store.example.org"
            assert session.get(token).status_code == 200
        assert "X-Xet-Hash" in session.head(file).headers

"""What holds for every test: no network, no key, a home and a working folder of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}


class NetworkUsed(RuntimeError):
    """Deliberately no OSError: nothing that forgives a failed connection may forgive this."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(name: str):
        real = getattr(socket.socket, name)

        def connect(self: socket.socket, address):
            if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in _LOOPBACK:
                raise NetworkUsed(f"a test reached for the network: {address}")
            return real(self, address)

        return connect

    def getaddrinfo(host, *args, real=socket.getaddrinfo, **kwargs):
        if host not in _LOOPBACK:
            raise NetworkUsed(f"a test reached for the network: {host}")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded("connect_ex"))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, the default store among them, lead into the test's own folder; so does the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in os.environ:
        if name.endswith("_API_KEY") or name.startswith(("CHARFORGE_", "XDG_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

"""The fences around the tests hold."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def test_connecting_beyond_this_machine_raises():
    with socket.socket() as plain, pytest.raises(RuntimeError) as caught:
        plain.connect(("192.0.2.1", 80))
    assert str(caught.value) == "a test reached for the network: ('192.0.2.1', 80)"


def test_looking_up_a_name_raises():
    with pytest.raises(RuntimeError) as caught:
        socket.create_connection(("example.org", 443))
    assert str(caught.value) == "a test reached for the network: example.org"


def test_connecting_to_this_machine_works():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_the_default_store_and_the_home_lie_in_the_tests_own_folder(tmp_path):
    assert Path(".charforge").resolve() == tmp_path.resolve() / ".charforge"
    assert Path.home() == tmp_path
    assert not [name for name in os.environ if name.endswith("_API_KEY")]

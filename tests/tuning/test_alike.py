"""What keeps a node of a cluster from running trials, and how processes on several machines find each other."""

from __future__ import annotations

import socket
import sys

import pytest

from gcsearch.errors import StudyError
from gcsearch.tuning import alike
from gcsearch.tuning.alike import check_here, code_identity, describe_problem


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, r"node n: gcsearch must be the same as .*, 0.1.0 \(aaa\), got none. Install it on every node"),
        ("0.1.0 (bbb)", r"got 0.1.0 \(bbb\). Install"),
    ],
)
def test_a_node_that_is_unlike_the_drivers_is_named_with_what_to_do(found, words):
    assert describe_problem("n", "0.1.0 (aaa)", "0.1.0 (aaa)") is None
    with pytest.raises(StudyError, match=words):
        raise StudyError(describe_problem("n", found, "0.1.0 (aaa)"))


def test_the_identity_of_the_code_follows_the_sources(monkeypatch, tmp_path):
    code_identity.cache_clear()
    here = code_identity()
    package = tmp_path / "gcsearch"
    package.mkdir()
    (package / "__init__.py").write_text("")
    found = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(alike, "find_spec", lambda _: found)
    identities = [here]
    for text in ("one = 1", "one = 2"):
        (package / "module.py").write_text(text)
        code_identity.cache_clear()
        identities.append(code_identity())
    (package / "module.py").rename(package / "other.py")
    code_identity.cache_clear()
    identities.append(code_identity())
    assert len(set(identities)) == 4
    assert all(identity.startswith(here.split()[0]) for identity in identities)
    code_identity.cache_clear()


def test_a_trial_on_a_node_that_came_later_is_refused_if_it_has_another_gcsearch():
    check_here(code_identity())
    with pytest.raises(StudyError, match="gcsearch must be the same"):
        check_here("0.0.1 (abc)")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_interface_of_an_address_is_found():
    from gcsearch.tuning.network import interface_of

    loopback = interface_of("127.0.0.1")
    assert loopback is not None
    assert loopback in [name for _, name in socket.if_nameindex()]
    assert interface_of("192.0.2.1") is None

"""Signing, against a stand-in with sigstore's names and shapes: there is no network here, and no identity to sign with.

The stand-in is as strict as sigstore where it refuses a statement. Where the package itself is installed, the tests at the end hold its
names and its own statement and envelope against what is used of them here.
"""

from __future__ import annotations

import base64
import importlib.util
import inspect
import json
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest

from charforge import attestation, attested, signing
from charforge.attestation import Code, Given, Material
from charforge.engine import lock
from charforge.engine.digest import of_bytes
from charforge.errors import CharForgeError

DIGESTS = {"sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512"}
"""What sigstore takes in a subject; it refuses the whole statement for another."""


class SigstoreError(Exception):
    pass


class Statement:
    def __init__(self, contents):
        self._contents = contents
        data = json.loads(contents)
        if data["_type"] != "https://in-toto.io/Statement/v1" or not data["subject"]:
            raise SigstoreError("malformed in-toto statement")
        for each in data["subject"]:
            if "name" not in each or not each["digest"] or not set(each["digest"]) <= DIGESTS:
                raise SigstoreError("malformed in-toto statement: subject")


class IdentityToken:
    def __init__(self, raw_token, client_id="sigstore"):
        self.identity = raw_token


class Bundle:
    def __init__(self, payload):
        self.payload = payload

    def to_json(self):
        envelope = {
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(b"signed").decode()}],
        }
        return json.dumps(
            {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
        )


@pytest.fixture
def sigstore(monkeypatch):
    """The stand-in; what was done is in `log`, and what the environment says of who signs in `ambient`."""
    state = SimpleNamespace(log=[], ambient=None, fails=None)

    def detect_credential(client_id="sigstore"):
        return state.ambient

    class Issuer:
        def __init__(self, base_url):
            state.log.append(f"issuer {base_url}")

        def identity_token(self, client_id="sigstore", client_secret="", force_oob=False, redirect_port=0):
            return IdentityToken("somebody@browser")

    class Signer:
        def __init__(self, identity):
            self.identity = identity

        def sign_dsse(self, input_):
            assert isinstance(input_, Statement)
            if state.fails:
                raise state.fails
            state.log.append(f"signed as {self.identity.identity}")
            return Bundle(input_._contents)

    class SigningContext:
        @classmethod
        def from_trust_config(cls, trust_config):
            state.log.append(f"context of {trust_config.name}")
            return cls()

        @contextmanager
        def signer(self, identity_token, *, cache=True):
            yield Signer(identity_token)

    class ClientTrustConfig:
        @classmethod
        def production(cls, offline=False):
            return SimpleNamespace(
                name="production",
                signing_config=SimpleNamespace(get_oidc_url=lambda: "https://oauth2.sigstore.dev/auth"),
            )

    names = {
        "sigstore": {},
        "sigstore.dsse": {"Statement": Statement},
        "sigstore.models": {"ClientTrustConfig": ClientTrustConfig},
        "sigstore.oidc": {
            "Issuer": Issuer,
            "IdentityToken": IdentityToken,
            "detect_credential": detect_credential,
        },
        "sigstore.sign": {"SigningContext": SigningContext},
    }
    for name, held in names.items():
        module = ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)
    return state


@pytest.fixture
def statement(tmp_path):
    facts = {"version": 1, "params": {}, "inputs": {}, "environment": "e"}
    lines = {"dataset": lock.Line(action="0" * 64, outputs={"sft.jsonl": of_bytes(b"sft")}, **facts)}
    said = lock.Lock("eliza", lines, {"e": {"charforge": "0.1.0"}})
    spec = Given("characters/eliza.yaml", of_bytes(b"spec"), of_bytes(b"spec"), ())
    made = Material(
        "eliza.lock",
        lock.text(said).encode(),
        said,
        spec={},
        files=(spec,),
        code=Code("0.1.0", of_bytes(b"c"), "c" * 40),
    )
    return next(path for path in attestation.write(tmp_path, made) if path.name == attestation.PROVENANCE)


def test_the_bundle_holds_the_statements_own_bytes(sigstore, statement):
    sigstore.ambient = "a token"
    (bundle,) = signing.sign([statement])
    assert bundle.name == "provenance.intoto.json.sigstore.json"
    envelope = json.loads(bundle.read_text())["dsseEnvelope"]
    assert base64.b64decode(envelope["payload"]) == statement.read_bytes()
    assert attested.read(bundle).signed
    assert attested.read(bundle).subjects == attested.read(statement).subjects


def test_the_environment_says_who_signs_before_a_browser_is_opened(sigstore, statement):
    sigstore.ambient = "a token"
    signing.sign([statement, statement])
    assert sigstore.log == ["context of production", "signed as a token", "signed as a token"]


def test_without_a_token_the_browser_is_asked_at_the_issuer_that_sigstore_names(sigstore, statement):
    signing.sign([statement])
    assert sigstore.log == [
        "issuer https://oauth2.sigstore.dev/auth",
        "context of production",
        "signed as somebody@browser",
    ]


def test_a_statement_that_sigstore_would_refuse_is_refused_before_anybody_is_asked(sigstore, tmp_path):
    path = tmp_path / "x.intoto.json"
    path.write_text('{"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"md5": "0"}}]}')
    with pytest.raises(CharForgeError, match="sigstore did not sign: malformed in-toto statement"):
        signing.sign([path])
    assert sigstore.log == []


def test_what_a_server_refuses_is_one_error_and_leaves_no_bundle(sigstore, statement):
    sigstore.fails = SigstoreError("no route\nto host")
    with pytest.raises(CharForgeError) as caught:
        signing.sign([statement])
    assert caught.value.message == "sigstore did not sign: no route"
    assert not list(statement.parent.glob("*.sigstore.json"))


def test_without_the_package_one_error_says_what_to_install(monkeypatch, statement):
    monkeypatch.setitem(sys.modules, "sigstore", None)
    monkeypatch.setitem(sys.modules, "sigstore.oidc", None)
    with pytest.raises(CharForgeError) as caught:
        signing.sign([statement])
    assert caught.value.message.startswith("signing needs the package sigstore (")
    assert caught.value.hint == "pip install 'charforge[sign]', then sign again"


# -- the package itself, where it is installed -----------------------------------------------------------------------

installed = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="sigstore is not installed"
)


@installed
def test_sigstore_has_the_names_that_are_used():
    oidc, models, sign, _dsse = signing.package()
    assert "client_id" in inspect.signature(oidc.detect_credential).parameters
    assert next(iter(inspect.signature(oidc.IdentityToken).parameters)) == "raw_token"
    assert next(iter(inspect.signature(oidc.Issuer).parameters)) == "base_url"
    assert all(
        parameter.default is not inspect.Parameter.empty
        for name, parameter in inspect.signature(oidc.Issuer.identity_token).parameters.items()
        if name != "self"
    )
    assert callable(models.ClientTrustConfig.production)
    assert isinstance(inspect.getattr_static(models.ClientTrustConfig, "signing_config"), property)
    assert list(inspect.signature(sign.SigningContext.from_trust_config).parameters) == ["trust_config"]
    assert list(inspect.signature(sign.SigningContext.signer).parameters)[:2] == ["self", "identity_token"]
    assert list(inspect.signature(sign.Signer.sign_dsse).parameters) == ["self", "input_"]
    assert callable(models.Bundle.to_json)


@installed
def test_sigstore_takes_the_statement_and_signs_its_own_bytes(statement):
    from cryptography.hazmat.primitives.asymmetric import ec
    from sigstore import dsse
    from sigstore.dsse._predicate import SLSAPredicateV1_0

    said = dsse.Statement(statement.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    envelope = dsse._sign(key, said)
    assert dsse._verify(key.public_key(), envelope) == statement.read_bytes()
    assert attested.parse(envelope.to_json().encode(), "x").signed
    # Its model of SLSA provenance refuses fields that it does not know.
    SLSAPredicateV1_0.model_validate(json.loads(statement.read_bytes())["predicate"])

"""Signing a Statement by Sigstore, where its package is installed: an identity from the environment or a browser, no key to keep.

Asks servers over the network, and only when told to: nothing else imports this. What is signed is the Statement's own bytes, in a
DSSE envelope; the bundle holds them, the certificate and the entry in the public log, so it can be verified alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charforge.errors import CharForgeError

SUFFIX = ".sigstore.json"

_VERIFY = "is the network there, and is this identity the one you mean?"


def sign(files: Sequence[Path]) -> list[Path]:
    """Sign each Statement; return the bundles written beside them, named with `.sigstore.json` at the end.

    Raises CharForgeError where sigstore is not installed, where nobody says who signs, or where a server does not answer.
    """
    oidc, models, signing, dsse = package()
    with _explained():
        # In this order: a statement that sigstore would not take is said before anybody is asked for a name.
        statements = [(path, dsse.Statement(path.read_bytes())) for path in files]
        trust = models.ClientTrustConfig.production()
        token = oidc.detect_credential()
        if token:
            identity = oidc.IdentityToken(token)
        else:
            identity = oidc.Issuer(trust.signing_config.get_oidc_url()).identity_token()
        made = []
        with signing.SigningContext.from_trust_config(trust).signer(identity) as signer:
            for path, statement in statements:
                bundle = path.with_name(path.name + SUFFIX)
                bundle.write_text(signer.sign_dsse(statement).to_json() + "\n", encoding="utf-8")
                made.append(bundle)
        return made


def package() -> list[Any]:
    """Return sigstore's modules that signing takes. Raises CharForgeError where they are not installed."""
    names = ("sigstore.oidc", "sigstore.models", "sigstore.sign", "sigstore.dsse")
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise CharForgeError(
            f"signing needs the package sigstore ({error})", "pip install 'charforge[sign]', then sign again"
        ) from error


@contextmanager
def _explained() -> Iterator[None]:
    """Say what Sigstore could not do as one error: its own exceptions come from several roots."""
    try:
        yield
    except (CharForgeError, OSError, AttributeError, TypeError):
        raise
    except Exception as error:  # requests', tuf's, pydantic's and its own
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise CharForgeError(f"sigstore did not sign: {why}", _VERIFY) from error

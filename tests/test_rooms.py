"""Imports run one way, and heavy ones are late: the rooms of the house, as DESIGN and CONTRIBUTING draw them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "charforge"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(module: Path, *, late: bool = True) -> set[str]:
    """Return what a module imports, as dotted names; only at its top level unless `late`."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "engine"], ids=str)
def test_the_engine_imports_nothing_outside_itself(module):
    ours = {name for name in imports(module) if name.startswith("charforge.")}
    assert {name for name in ours if not name.startswith("charforge.engine")} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] != "models"], ids=str)
def test_only_models_import_torch_and_transformers(module):
    assert {name.split(".")[0] for name in imports(module)} & {
        "torch",
        "transformers",
        "gguf",
        "llguidance",
    } == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m != Path("llm/litellm_lane.py")], ids=str)
def test_only_the_litellm_lane_imports_litellm(module):
    assert "litellm" not in imports(module)


# The tests' browser speaks over a web socket; no command of ours imports it.
@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in {Path("llm/direct.py"), Path("testing/browser.py")}], ids=str
)
def test_only_the_direct_lane_imports_aiohttp(module):
    assert {name.split(".")[0] for name in imports(module)} & {"aiohttp", "yarl", "multidict"} == set()


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in {Path("attestation.py"), Path("attested.py")}], ids=str
)
def test_only_attestations_import_the_published_types(module):
    assert {name.split(".")[0] for name in imports(module)} & {"in_toto_attestation", "google"} == set()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_imports_sigstore_but_by_name_when_signing(module):
    assert "sigstore" not in {name.split(".")[0] for name in imports(module)}
    if module != Path("signing.py"):
        assert '"sigstore.' not in (PACKAGE / module).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "stages"], ids=str)
def test_stages_read_no_store_and_no_spec(module):
    forbidden = (
        "charforge.engine",
        "charforge.spec",
        "charforge.pipeline",
        "charforge.cli",
        "charforge.commands",
    )
    assert {name for name in imports(module) if name.startswith(forbidden)} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] in {"stages", "models", "llm"}], ids=str)
def test_nothing_below_prints(module):
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls


@pytest.mark.parametrize("command", ["--help", "build --help"])
def test_help_loads_nothing_heavy(command):
    heavy = ["torch", "transformers", "litellm", "jsonschema", "rich", "yaml", "asyncio", "sqlite3"]
    code = (
        f"import sys\nfrom charforge.cli import main\ntry: main({command.split()!r})\nexcept SystemExit: pass\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

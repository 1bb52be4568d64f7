"""What GitHub runs: without secrets, reading only, actions pinned, and no text of a pull request in a shell."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request):
    """A workflow's text and what it says. YAML 1.1 reads the key `on` as true."""
    text = request.param.read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    return text, read, read[True]


def steps(read):
    """Return all steps of all jobs."""
    return [step for job in read["jobs"].values() for step in job["steps"]]


def test_both_workflows_are_there():
    assert [path.name for path in WORKFLOWS] == ["characters.yml", "ci.yml"]


def test_it_starts_on_a_pull_request_and_never_with_the_targets_rights(workflow):
    _, _, on = workflow
    assert "pull_request" in on
    assert set(on) <= {"pull_request", "push"}


def test_it_may_read_the_repository_and_nothing_else(workflow):
    _, read, _ = workflow
    assert read["permissions"] == {"contents": "read"}
    for job in read["jobs"].values():
        assert "permissions" not in job
        assert "environment" not in job
        assert job["timeout-minutes"] <= 60


def test_it_names_no_secret_and_keeps_no_token(workflow):
    text, read, _ = workflow
    code = re.sub(r"(?m)^\s*#.*$", "", text)
    assert not re.search(r"secrets|token|password|api_key", code, re.IGNORECASE)
    checkouts = [step for step in steps(read) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_every_action_is_pinned_to_a_commit_and_says_which_version_that_is(workflow):
    text, read, _ = workflow
    used = [step["uses"] for step in steps(read) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/(checkout|setup-python|cache(/restore)?)@[0-9a-f]{40}", action)
        assert re.search(rf"uses: {re.escape(action)} # v\d+\.\d+\.\d+\n", text)


def test_no_expression_reaches_a_shell(workflow):
    _, read, _ = workflow
    for step in steps(read):
        assert "${{" not in step.get("run", "")
        assert step.get("shell") is None


def test_the_review_takes_its_code_from_the_base_and_only_reads_the_rest():
    read = yaml.safe_load((ROOT / ".github/workflows/characters.yml").read_text(encoding="utf-8"))
    (job,) = read["jobs"].values()
    trusted, proposed = [
        step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert (trusted["path"], trusted["ref"]) == ("trusted", "${{ github.event.pull_request.base.sha }}")
    assert proposed["path"] == "proposed"
    # Whatever is run lies in the trusted checkout; the other is named once, as what is read.
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [
        "make -C trusted install",
        'trusted/.ci/character-review --repository proposed "$BASE" "$HEAD"',
    ]
    assert not any("working-directory" in step for step in job["steps"])
    assert not any(step.get("uses", "").startswith("actions/cache@") for step in job["steps"])


def test_only_a_push_to_the_main_branch_fills_the_cache():
    read = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert read[True]["push"] == {"branches": ["main"]}
    filling = [step for step in steps(read) if step.get("uses", "").startswith("actions/cache@")]
    assert [step["if"] for step in filling] == ["github.event_name == 'push'"]


@pytest.mark.parametrize("name", ["run", "character-review"])
def test_what_it_runs_is_there_and_can_be_run(name):
    assert os.access(ROOT / ".ci" / name, os.X_OK)

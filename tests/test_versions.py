"""Code is an input: a stage whose source changed has a new version, or a written reason why it needs none."""

from charforge import versions


def test_every_stage_is_as_recorded():
    assert versions.complaints() == []


def test_comments_layout_and_docstrings_do_not_count(tmp_path, monkeypatch):
    before = _digest(
        tmp_path, monkeypatch, '"""About."""\n\nX = 1  # one\n\n\ndef f(a):\n    """Doc."""\n    return a+X\n'
    )
    after = _digest(tmp_path, monkeypatch, "X = 1\ndef f(a):\n    return (a + X)  # sum\n")
    assert before == after


def test_a_changed_helper_counts(tmp_path, monkeypatch):
    before = _digest(
        tmp_path, monkeypatch, "from charforge.helper import f\nVERSION = 1\n", helper="def f(): return 1\n"
    )
    after = _digest(
        tmp_path, monkeypatch, "from charforge.helper import f\nVERSION = 1\n", helper="def f(): return 2\n"
    )
    assert before != after


def test_the_version_itself_does_not_count(tmp_path, monkeypatch):
    assert _digest(tmp_path, monkeypatch, "VERSION = 1\n") == _digest(tmp_path, monkeypatch, "VERSION = 2\n")


def test_a_changed_source_is_reported_with_what_to_do(tmp_path, monkeypatch):
    _digest(tmp_path, monkeypatch, "VERSION = 1\nX = 1\n")
    record = versions.current()
    monkeypatch.setattr(versions, "recorded", lambda: record)
    (tmp_path / "charforge" / "stage.py").write_text("VERSION = 1\nX = 2\n")
    assert versions.complaints() == [
        (
            "stage: its source changed, its version (1) did not. If its outputs may change, raise "
            "charforge.stage:VERSION. Then: python -m charforge.versions --accept 'why'"
        )
    ]


def _digest(tmp_path, monkeypatch, source, helper="X = 1\n"):
    package = tmp_path / "charforge"
    package.mkdir(exist_ok=True)
    for name, text in {"stage": source, "helper": helper, "pipeline": "", "__init__": ""}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(versions, "PACKAGE", package)
    monkeypatch.setattr(
        versions, "STAGES", {"stage": ("charforge.stage:VERSION", ("charforge.stage",), None)}
    )
    return versions.source_digest("stage")

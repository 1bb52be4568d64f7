"""`charforge import transcripts`: files of others, read, written and built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge import check

PROFILE = "# Ada King\n\nAda King (10 December 1815 – 27 November 1852) counted.\n\n" + "\n\n".join(
    f"She wrote note {letter} about the mill, and showed it to her friends." for letter in "ABCDEF"
)
TOPICS = ("topic-1", "topic-2", "topic-3", "topic-4")


def say(content, role="Ada", action="(speaking)"):
    return {"role": role, "action": action, "content": content}


@pytest.fixture
def released(tmp_path):
    """A folder in the released layout: one character, two systems, four questions and an interview each."""
    root = tmp_path / "released"
    asked = [{"topic_id": topic, "topic": topic, "question": f"Which note is {topic}?"} for topic in TOPICS]
    subject = {"topic_id": "topic-3", "topic": "values", "question": "Your mill"}
    files = {
        "profiles/wiki_Ada.txt": PROFILE,
        "questions/generated_agent_interview_Ada.json": json.dumps(asked),
        "questions/generated_agent_interview_for_multiturn_Ada.json": json.dumps([subject]),
    }
    for system in ("sft", "m-1"):
        single = [
            {
                "topic_id": each["topic_id"],
                "question": each["question"],
                "reply": [say(f"Note {place}, by {system}.")],
            }
            for place, each in enumerate(asked)
        ]
        turns = [("interviewer", [say("How?", "Man")]), ("character", [say("So.")])]
        content = [{"turn_id": 0, "turn_role": role, "turn_content": said} for role, said in turns]
        talk = {"character": "Ada King", "model": system, "topic": "Your mill", "qid": 0, "max_turns": 1,
                "finished": True, "content": content}  # fmt: skip
        files[f"interview_single/Ada_{system}.json"] = json.dumps(single)
        files[f"interview_turns/Ada_{system}.jsonl"] = json.dumps(talk) + "\n"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def written(folder):
    return {
        path.relative_to(folder).as_posix() for path in (folder / "characters").rglob("*") if path.is_file()
    }


FILES = {
    "characters/released-ada.yaml",
    "characters/profiles/released-ada.md",
    "characters/questions/released-ada.yaml",
    "characters/transcripts/released-ada/sft.jsonl",
    "characters/transcripts/released-ada/m-1.jsonl",
}


def test_a_released_folder_becomes_a_character_that_passes_check(run, released, tmp_path):
    status, out, err = run(
        "import", "transcripts", str(released), "--no-build", "--never", "jazz: all", "--never", "cinema"
    )
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "released-ada: Ada King, 2 systems; knows until 1852-11-27 (the profile's first paragraph: 27 November 1852)",
        "  sft: 4 answers, 1 interview of 1 answer",
        "  m-1: 4 answers, 1 interview of 1 answer",
        "written: characters/released-ada.yaml",
        "written: characters/profiles/released-ada.md",
        "written: characters/questions/released-ada.yaml",
        "written: characters/transcripts/released-ada/sft.jsonl",
        "written: characters/transcripts/released-ada/m-1.jsonl",
    ]  # fmt: skip
    assert written(tmp_path) == FILES
    spec = tmp_path / "characters" / "released-ada.yaml"
    assert check.check(spec, tmp_path).facts[0] == "characters/released-ada.yaml: Ada King, preset laptop"
    text = spec.read_text(encoding="utf-8")
    assert '  never:\n    - "jazz: all"\n    - cinema\n' in text
    assert (
        "    - {name: sft, files: [transcripts/released-ada/sft.jsonl]}\n    # from Ada_m-1.json, SHA-256 "
        in text
    )


def test_what_is_there_stays_unless_forced(run, released, tmp_path):
    arguments = ("import", "transcripts", str(released), "--no-build")
    run(*arguments)
    mine = tmp_path / "characters/profiles/released-ada.md"
    mine.write_text("mine", encoding="utf-8")
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.endswith("there already\nhint: --force replaces them; --id gives another name\n")
    assert mine.read_text(encoding="utf-8") == "mine"
    assert run(*arguments, "--force")[0] == 0
    assert mine.read_text(encoding="utf-8") != "mine"
    assert run(*arguments, "--id", "ada")[0] == 0
    assert (tmp_path / "characters/transcripts/ada/sft.jsonl").is_file()


def test_nothing_is_written_where_anything_is_wrong(run, released, tmp_path):
    (released / "interview_turns/Ada_sft.jsonl").write_text('{"x"}\n{"y": 1}', encoding="utf-8")
    status, out, err = run("import", "transcripts", str(released), "--no-build")
    assert (status, out) == (1, "")
    assert "Ada_sft.jsonl:1: not JSON" in err
    assert not (tmp_path / "characters").exists()


def test_nothing_is_left_where_the_disk_refuses(run, released, tmp_path, monkeypatch):
    arguments = ("import", "transcripts", str(released), "--no-build")
    run(*arguments)
    before = {name: (tmp_path / name).read_bytes() for name in written(tmp_path)}
    real = Path.replace

    def replace(path, target):
        if Path(target).name == "m-1.jsonl":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    status, _, err = run(*arguments, "--force", "--never", "cinema")
    assert (status, err) == (
        1,
        (
            "error: characters/transcripts/released-ada/m-1.jsonl cannot be written: No space left on device\n"
            "hint: nothing was imported\n"
        ),
    )
    assert {name: (tmp_path / name).read_bytes() for name in written(tmp_path)} == before
    assert run(*arguments, "--id", "other")[0] == 1
    assert written(tmp_path) == FILES


def test_a_link_is_replaced_and_what_it_leads_to_stays(run, released, tmp_path):
    outside = tmp_path / "outside.md"
    outside.write_text("mine", encoding="utf-8")
    link = tmp_path / "characters/profiles/released-ada.md"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    arguments = ("import", "transcripts", str(released), "--no-build")
    assert "there already" in run(*arguments)[2]
    assert run(*arguments, "--force")[0] == 0
    assert outside.read_text(encoding="utf-8") == "mine"
    assert not link.is_symlink()


def test_a_day_of_death_that_nobody_tells_is_asked_for(run, released, tmp_path):
    profile = released / "profiles/wiki_Ada.txt"
    profile.write_text(PROFILE.replace(" (10 December 1815 – 27 November 1852)", ""), encoding="utf-8")
    arguments = ("import", "transcripts", str(released), "--no-build")
    assert run(*arguments) == (
        1,
        "",
        (
            "error: the profile of Ada tells no day of death in its first paragraph\n"
            "hint: say the last day that the character can know of: --knows-until 1827-03-26\n"
        ),
    )
    status, out, _ = run(*arguments, "--knows-until", "15 March 44 BC")
    assert (status, out.splitlines()[0]) == (
        0,
        "released-ada: Ada King, 2 systems; knows until -0043-03-15 (as --knows-until said)",
    )
    status, _, err = run(*arguments, "--force", "--knows-until=1852-13-01")
    assert status == 1
    assert "is not a day of the calendar" in err


def test_plain_answers_need_a_profile_and_get_an_id_of_their_own(run, tmp_path):
    answers = tmp_path / "gpt.csv"
    answers.write_text("question,answer\nWho are you?,Ada.\nWhat is that?,A mill.\n", encoding="utf-8")
    arguments = ("import", "transcripts", str(answers), "--no-build")
    assert run(*arguments) == (
        1,
        "",
        (
            "error: no profile: answers are measured against what is known of the person\n"
            "hint: name a text with --profile: one that begins with '# Full name', or a profile of ours\n"
        ),
    )
    life = tmp_path / "ada.txt"
    life.write_text(PROFILE, encoding="utf-8")
    status, out, _ = run(*arguments, "--profile", str(life), "--licence", "CC0-1.0")
    assert status == 0
    assert out.splitlines()[:3] == [
        "imported-king: Ada King, 1 system; knows until 1852-11-27 (the profile's first paragraph: 27 November 1852)",
        "  gpt: 2 answers, no interview",
        "    2 × nobody says what the question is about; taken for past (gpt.csv: line 2; line 3)",
    ]
    assert (
        "licence: CC0-1.0\nsource: ada.txt\n"
        in (tmp_path / "characters/profiles/imported-king.md").read_text()
    )


def test_an_option_for_one_character_is_refused_for_several(run, released):
    for part, name in (("profiles", "wiki_Ada.txt"), ("interview_single", "Ada_sft.json")):
        path = released / part / name
        (path.parent / name.replace("Ada", "Eve")).write_bytes(path.read_bytes())
    assert run("import", "transcripts", str(released), "--id", "x") == (
        2,
        "",
        "error: --id is for one character, and here are Ada, Eve\nhint: import them one at a time\n",
    )


def test_a_bad_id_is_refused(run, released):
    status, _, err = run("import", "transcripts", str(released), "--id", "../x")
    assert (status, err.split("\n")[0]) == (
        1,
        "error: --id: expected an id such as released-beethoven, got '../x'",
    )


def test_what_was_odd_is_told_and_kept_beside_the_system(run, released, tmp_path):
    path = released / "interview_single" / "Ada_sft.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    for entry in entries:
        entry["reply"] = say("Hm\u202e and", action="((speaking)")
    path.write_text(json.dumps(entries), encoding="utf-8")
    _, out, _ = run("import", "transcripts", str(released), "--no-build")
    odd = "4 × the action is '((speaking)', read as speaking (Ada_sft.json: item 1; item 2; item 3; …)"
    assert f"    {odd}\n" in out
    assert f"    # {odd}\n" in (tmp_path / "characters/released-ada.yaml").read_text(encoding="utf-8")
    assert run("check", "released-ada")[0] == 0


def test_an_import_is_built_and_compared(run, released, tmp_path):
    status, out, _ = run("import", "transcripts", str(released))
    assert status == 0
    assert "released-ada: built, 6 of 6 stages ran" in out
    compared = out.split("build/released-ada/report.html")[1]
    assert "sft" in compared
    assert "m-1" in compared
    assert (tmp_path / "build/released-ada/report.html").is_file()
    metrics = json.loads((tmp_path / "build/released-ada/metrics.json").read_text(encoding="utf-8"))
    assert {system: found["answers"] for system, found in metrics.items()} == {"sft": 5, "m-1": 5}
    assert run("build", "released-ada")[1].startswith("released-ada: up to date, 6 stages")

"""What a change costs: which stages run and which calls are made, for the whole pipeline on a small character.

Models and training are scripted (charforge/testing/scripted.py); everything else is real.
"""

import asyncio
import json
from pathlib import Path

import pytest

from charforge import pipeline, spec
from charforge.engine.build import RAN, Build
from charforge.engine.claims import Claims
from charforge.engine.graph import Graph
from charforge.engine.receipt import Stamps
from charforge.engine.stale import UP_TO_DATE
from charforge.engine.store import Store
from charforge.testing import MODEL, ScriptedWorkshop
from charforge.workspace import packaged_prompts

SPEC = f"""\
charforge: 1
name: Ada Example
short_name: Ada
preset: smoke
profile: {{file: profiles/ada.md}}
knows: {{until: 1852-11-27, never: [telephones, computers]}}
generator: {{model: {MODEL}, max_tokens: 600}}
written: written/ada.md
scenes: {{count: 4, attempts: 3}}
dialogues: {{attempts: 3}}
protective: {{count: 2, attempts: 3}}
train: {{epochs: 2}}
interview: {{questions: questions/ada.yaml, interviewer: {{model: {MODEL}}}, limit_single: null, limit_multi: null}}
judge: {{model: {MODEL}, limit: null, exam: true}}
"""

PROFILE = """\
---
name: Ada Example
licence: CC0-1.0
source: Written for a test.
---

# Ada Example

"""

PARAGRAPHS = [
    (
        "engine",
        "She studied the drawings of the difference engine, counted the brass wheels and wrote long notes about its columns.",
    ),
    (
        "horses",
        "At seventeen she rode horses across the heath every morning, betted quietly with friends and lost large sums in autumn.",
    ),
    (
        "mother",
        "Her mother hired severe tutors, forbade poetry at table, praised arithmetic and kept a strict diary about each lesson.",
    ),
    (
        "flying",
        "As a child she planned wings from silk and feathers, measured ravens and named the whole study Flyology in letters.",
    ),
    (
        "salon",
        "In London evenings she met engineers, astronomers and novelists, danced until midnight and argued over logarithms with bankers.",
    ),
    (
        "illness",
        "During long illness she lay beside curtains, translated an Italian memoir and dictated corrections to patient servants.",
    ),
]

WRITTEN = """\
# Scenes

## The brass wheels {#wheels}

Paragraphs: engine
Type: chat
Location: A workshop in Dorset Street, London, 1843
Status: The inventor shows her a column of wheels that will not turn.

Charles (speaking): It has stuck again, Lady Ada. Do not touch the fourth wheel.

Ada (thinking): He has filed the tooth too short. I can see it from here.

Ada (speaking): I shall not touch it. I shall only tell you that its seventh tooth is shorter than its neighbours.

Charles (speaking): You measured it with your eye?

Ada (speaking): With my patience, sir. You had tired of it, and I had not.

# Protective dialogues

## The speaking wire {#wire}

Paragraphs: salon
Provocation: A guest asks for her telephone number.
Type: chat
Location: A drawing room in St James's Square, London, 1845
Status: A stranger at the soirée writes down addresses.

Guest (speaking): And what is your telephone number, madam?

Ada (speaking): My what? I have a number in the street, sir, and a footman who knows it better than I do.

Guest (speaking): So that I can ring you.

Ada (speaking): Ring the bell at the door like everybody else, and bring better manners with you.
"""

QUESTIONS = """\
single:
  - {id: tutor, topic: past, question: Who taught you numbers?}
  - {id: friend, topic: relations, question: Whom do you write to most often?}
  - {id: poetry, topic: values, question: Is there poetry in a machine?}
  - {id: radio, topic: traps, question: Which radio station do you listen to?}
multi:
  - {id: m-engine, topic: past, subject: Her work on the engine.}
"""


class Desk:
    """A workspace with one small character, and what its last build did."""

    def __init__(self, root):
        self.root = root
        for name in ("profiles", "written", "questions"):
            (root / "characters" / name).mkdir(parents=True)
        self.spec = root / "characters" / "ada.yaml"
        self.paragraphs = dict(PARAGRAPHS)
        self.write(self.spec, SPEC)
        self.write("written/ada.md", WRITTEN)
        self.write("questions/ada.yaml", QUESTIONS)
        self.save_profile()

    def write(self, name, text):
        (self.root / "characters" / name).write_text(text, encoding="utf-8")

    def edit(self, name, old, new):
        path = self.root / "characters" / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def save_profile(self):
        body = "\n\n".join(f"{text} {{#{anchor}}}" for anchor, text in self.paragraphs.items())
        self.write("profiles/ada.md", PROFILE + body + "\n")

    def build(self, *overrides, workshop=None):
        """Build, and return (stages that ran, requests made, jobs done)."""
        workshop = workshop or ScriptedWorkshop()
        character = pipeline.character(
            spec.load(self.spec, self.root, overrides=overrides), self.root, workshop, Stamps()
        )
        with Store(self.root / ".charforge") as store:
            claims = Claims(store.root / "claims")
            build = Build(store, claims, Graph(character.stages))
            outcomes = asyncio.run(build.run([character.stage("report")]))
            claims.close()
        for outcome in outcomes.values():
            if outcome.error is not None:
                raise outcome.error
            assert outcome.status in {RAN, UP_TO_DATE}
        self.outcomes = {name.split("/")[1]: outcome for name, outcome in outcomes.items()}
        self.calls = {
            name: outcome.calls_made for name, outcome in self.outcomes.items() if outcome.calls_made
        }
        ran = [name for name, outcome in self.outcomes.items() if outcome.status == RAN]
        return ran, workshop.requests, workshop.jobs

    def read(self, stage, name):
        with Store(self.root / ".charforge") as store:
            return store.read(self.outcomes[stage].outputs[name])

    def records(self, stage, name):
        return [json.loads(line) for line in self.read(stage, name).splitlines()]

    def json(self, stage, name):
        return json.loads(self.read(stage, name))


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    ran, _requests, jobs = desk.build()
    assert ran == list(pipeline.STAGES)
    assert jobs == ["base", "model"]
    return desk


AFTER_TRAINING = ["interviews", "metrics", "scores", "report"]


def test_a_dialogue_is_asked_for_before_the_last_scene_is_there(tmp_path):
    class Slow(ScriptedWorkshop):
        """Gives the second scene only when a dialogue of another one has been asked for."""

        scenes = 0

        async def complete(self, request, weights):
            if request.schema is not None and "background" in request.schema["properties"]:
                self.scenes += 1
                if self.scenes == 2:
                    async with asyncio.timeout(30):
                        while not any(map(asks_for_dialogue, self.requests)):
                            await asyncio.sleep(0.001)
            return await super().complete(request, weights)

    def asks_for_dialogue(request):
        # By the place of a scene, as the scripted model names them.
        return "towards evening" in request.messages[0][1]

    desk = Desk(tmp_path)
    waited, _, _ = desk.build(workshop=Slow())
    at_once = Desk(tmp_path / "other")
    at_once.build()
    assert waited == list(pipeline.STAGES)
    assert desk.calls == at_once.calls
    assert desk.outcomes["report"].outputs == at_once.outcomes["report"].outputs


def test_every_stage_makes_records(desk):
    assert len(desk.records("scenes", "scenes.jsonl")) == 4
    assert len(desk.records("dialogues", "dialogues.jsonl")) == 4
    assert len(desk.records("protective", "protective.jsonl")) == 2
    samples = desk.records("dataset", "sft.jsonl")
    assert len({sample["source"]["id"] for sample in samples}) == 8
    assert len(desk.records("interviews", "single.jsonl")) == 8


def test_a_second_build_runs_nothing(desk):
    assert desk.build() == ([], [], [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("charforge: 1\n", "# A comment\ncharforge: 1\n"),
        ("train: {epochs: 2}\n", "train:\n      epochs:   2\n"),
        ("name: Ada Example\nshort_name: Ada\n", "short_name: Ada\nname: Ada Example\n"),
    ],
    ids=["comment", "white space", "key order"],
)
def test_an_edit_without_meaning_runs_nothing(desk, old, new):
    desk.edit("ada.yaml", old, new)
    assert desk.build() == ([], [], [])


def test_one_paragraph_costs_only_its_own_calls(desk):
    used = desk.records("scenes", "scenes.jsonl")[0]["paragraph"]
    before = desk.paragraphs[used]
    desk.paragraphs[used] = before.replace(".", ", and she never regretted that decision afterwards.")
    desk.save_profile()
    ran, requests, jobs = desk.build()
    generating = [
        r for r in requests if "from the life of" in str(r.messages) or "for a play" in str(r.messages)
    ]
    assert generating
    assert all("never regretted that decision" in str(request.messages) for request in generating)
    assert (
        "written" in ran
    )  # it looks at the paragraphs' names, finds them unchanged, and makes the same bytes
    assert "base" not in ran
    assert jobs == ["model"]


def test_more_scenes_cost_only_the_new_draws(desk):
    _ran, requests, _jobs = desk.build("scenes.count=6")
    kept = {record["id"] for record in desk.records("scenes", "scenes.jsonl")}
    assert len(kept) == 6
    assert desk.outcomes["scenes"].calls_replayed >= 4
    assert desk.outcomes["dialogues"].calls_replayed >= 4
    scenes = [request for request in requests if "prepare scenes" in str(request.messages)]
    assert len(scenes) == desk.calls["scenes"] == 2
    assert "protective" not in desk.calls


def test_a_rule_touches_the_stages_that_apply_it_and_asks_nothing_again(desk):
    ran, requests, _jobs = desk.build("checks.no-provocation=false")
    assert ran == ["protective", "report"]  # which shows the spec
    assert requests == []


def test_a_written_dialogue_costs_no_generating_call(desk):
    desk.edit("written/ada.md", "You had tired of it", "You had wearied of it")
    ran, requests, jobs = desk.build()
    assert ran == ["written", "dataset", "model", "questions", *AFTER_TRAINING]
    assert jobs == ["model"]
    assert not [request for request in requests if "for a play" in str(request.messages)]


def test_more_epochs_cost_no_generating_call(desk):
    ran, requests, jobs = desk.build("train.epochs=3")
    assert ran == ["model", *AFTER_TRAINING]
    assert jobs == ["model"]
    assert not [request for request in requests if "for a play" in str(request.messages)]


def test_a_question_costs_its_own_answers_and_scores(desk):
    desk.edit("questions/ada.yaml", "Who taught you numbers?", "Who taught you to count?")
    ran, requests, jobs = desk.build()
    assert ran == ["questions", *AFTER_TRAINING]
    assert jobs == []
    assert desk.calls["interviews"] == 2  # the trained one and the base
    assert all("count" in str(request.messages or request.prompt) for request in requests[:2])


def test_a_comment_among_the_questions_runs_nothing(desk):
    desk.edit("questions/ada.yaml", "single:\n", "# Asked once each.\nsingle:\n")
    assert desk.build() == ([], [], [])


def test_a_change_and_back_runs_nothing(desk):
    desk.edit("written/ada.md", "tired", "wearied")
    desk.build()
    desk.edit("written/ada.md", "wearied", "tired")
    assert desk.build() == ([], [], [])


def test_a_stage_with_the_same_output_makes_nothing_stale(desk):
    desk.edit("written/ada.md", "# Scenes\n", "<!-- Nothing that is read. -->\n\n# Scenes\n")
    assert desk.build() == (["written"], [], [])


def test_the_judge_costs_only_scores(desk):
    ran, _requests, jobs = desk.build("judge.repeats=2")
    assert ran == ["scores", "report"]
    assert jobs == []


def test_an_own_prompt_replaces_the_packaged_one(desk):
    folder = desk.root / "prompts"
    folder.mkdir()
    packaged = Path(packaged_prompts() / "meta.j2").read_text(encoding="utf-8")
    (folder / "meta.j2").write_text(packaged + "\nNever hurry.\n", encoding="utf-8")
    ran, _requests, _jobs = desk.build()
    assert ran == ["dataset", "model", "questions", *AFTER_TRAINING]
    assert desk.records("dataset", "sft.jsonl")[0]["prompt"].count("Never hurry.") == 1


def test_a_sample_can_be_followed_to_its_paragraph(desk):
    sample = next(
        r
        for r in desk.records("dataset", "sft.jsonl")
        if r["source"]["origin"] == "generated" and r["kind"] == "dialogue"
    )
    dialogue = next(
        r for r in desk.records("dialogues", "dialogues.jsonl") if r["id"] == sample["source"]["id"]
    )
    scene = next(r for r in desk.records("scenes", "scenes.jsonl") if r["id"] == dialogue["scene"])
    assert scene["paragraph"] in dict(PARAGRAPHS)
    calls = {record["id"]: record["call"] for record in desk.records("scenes", "calls.jsonl")}
    with Store(desk.root / ".charforge") as store:
        assert store.action_body(calls[scene["id"]])["kind"] == "call"


def test_no_wall_clock_and_no_path_is_in_any_output(desk, tmp_path_factory):
    other = Desk(tmp_path_factory.mktemp("elsewhere"))
    other.build()
    same = {stage: outcome.outputs for stage, outcome in desk.outcomes.items()}
    assert {stage: outcome.outputs for stage, outcome in other.outcomes.items()} == same


# -- data of others, and other bases ----------------------------------------------------------------------------------


def release(desk, name="released.jsonl"):
    lines = [
        {"prompt": "Be Ada.\n\n", "output": f"Ada (speaking): Number {n} turns.<|eot|>\n"} for n in range(8)
    ]
    (desk.root / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_released_data_of_the_workspace_is_trained_as_it_is_and_nothing_is_generated(desk):
    release(desk)
    _ran, requests, _jobs = desk.build("train.data={prompted: ../released.jsonl}")
    assert desk.records("scenes", "scenes.jsonl") == []
    assert desk.records("protective", "protective.jsonl") == []
    sft = desk.records("dataset", "sft.jsonl")
    assert {sample["prompt"] for sample in sft} == {"Be Ada.\n\n"}
    assert len(sft) == 8
    assert not [request for request in requests if "scene" in str(request).lower()]


def test_a_file_of_the_hub_is_brought_by_a_stage_of_its_own(desk):
    ran, _requests, jobs = desk.build("train.mix={data: org/general@abc:some/file.jsonl, ratio: 0.1}")
    assert ran[:2] == ["released", "dataset"]
    assert jobs == ["released", "model"]
    assert [s["kind"] for s in desk.records("dataset", "sft.jsonl")].count("general") == 1
    assert desk.build("train.mix={data: org/general@abc:some/file.jsonl, ratio: 0.1}")[0] == []


def test_the_folder_of_a_base_model_is_known_by_its_bytes(desk):
    folder = desk.root / "models" / "own"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    assert desk.build("train.base_model=../models/own")[0][:2] == ["base", "model"]
    (folder / "notes.txt").write_text("nothing that counts")
    assert desk.build("train.base_model=../models/own")[0] == []
    (folder / "model.safetensors").write_bytes(b"others!")
    assert desk.build("train.base_model=../models/own")[0][:1] == ["base"]


def test_what_full_training_does_not_use_and_how_many_checkpoints_are_kept_make_nothing_stale(desk):
    assert desk.build("train.lora.rank=4", "train.keep_checkpoints=1")[0] == ["report"]


def test_an_adapter_answers_on_its_base(desk):
    _ran, requests, _jobs = desk.build("train.method=lora")
    assert requests
    assert desk.records("model", "probes.jsonl")


# --- What is evaluated ---------------------------------------------------------------------------------------------------


def test_a_question_that_the_training_data_ask_is_set_aside_and_nobody_is_asked(desk):
    asked = next(
        turn["content"]
        for dialogue in desk.records("written", "dialogues.jsonl")
        for turn in dialogue["turns"]
        if turn["content"].endswith("?")
    )
    desk.edit("questions/ada.yaml", "Who taught you numbers?", asked)
    desk.build()
    (aside,) = desk.records("questions", "set_aside.jsonl")
    assert aside["text"] == asked
    assert asked not in {record["text"] for record in desk.records("interviews", "single.jsonl")}


def test_questions_are_generated_once(desk):
    generated = (
        "interview.questions=null",
        f"interview.generate.model={MODEL}",
        "interview.generate.single=4",
        "interview.generate.multi=0",
    )
    _ran, _requests, jobs = desk.build(*generated)
    assert jobs == []
    assert desk.calls["questions"] > 0
    asked = {record["text"] for record in desk.records("interviews", "single.jsonl")}
    assert asked
    assert desk.build(*generated) == ([], [], [])
    desk.build(*generated, "train.epochs=3")
    assert "questions" not in desk.calls
    assert {record["text"] for record in desk.records("interviews", "single.jsonl")} == asked


def test_transcripts_are_contestants_like_any_other(desk):
    lines = [
        {"question": question, "answer": "I was told by my mother."}
        for question in ("Who taught you numbers?",)
    ]
    desk.write("teller.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    ran, _requests, jobs = desk.build("interview.transcripts=[{name: teller, files: [teller.jsonl]}]")
    assert ran == ["interviews", "metrics", "scores", "report"]
    assert jobs == []
    told = [r for r in desk.records("interviews", "single.jsonl") if r["contestant"] == "teller"]
    own = [r for r in desk.records("interviews", "single.jsonl") if r["contestant"] == "trained"]
    assert {record["question"] for record in told} <= {record["question"] for record in own}
    assert {record["contestant"] for record in desk.records("scores", "scores.jsonl")} == {
        "base",
        "teller",
        "trained",
    }
    assert desk.json("scores", "statistics.json")["reference"] == "trained"


@pytest.mark.parametrize("questions", ["null", "questions/ada.yaml"])
def test_who_is_not_trained_needs_no_training(tmp_path, questions):
    desk = Desk(tmp_path)
    desk.write(
        "teller.jsonl", json.dumps({"question": "Who taught you numbers?", "answer": "My mother."}) + "\n"
    )
    ran, requests, jobs = desk.build(
        f"interview.questions={questions}",
        "interview.trained=false",
        "interview.baselines=[]",
        "interview.transcripts=[{name: teller, files: [teller.jsonl]}]",
        "judge.limit=0",
        "judge.pairwise=0",
    )
    assert ran == ["profile", "questions", "interviews", "metrics", "scores", "report"]
    assert (requests, jobs) == ([], [])
    assert desk.json("interviews", "contestants.json")[0]["reference"]


def test_a_prompted_model_alone_needs_no_weights(tmp_path):
    desk = Desk(tmp_path)
    ran, requests, jobs = desk.build(
        "interview.trained=false", f"interview.baselines=[{MODEL}]", "judge.exam=false"
    )
    assert "model" not in ran
    assert "base" not in ran
    assert requests
    assert jobs == []


def test_what_a_build_used_is_what_its_calls_used_however_often_it_runs(desk):
    before = desk.json("scenes", "usage.json")
    assert before[MODEL]["calls"] == len(desk.records("scenes", "calls.jsonl"))
    desk.build("scenes.count=5")
    desk.build("scenes.count=4", "scenes.attempts=4")  # all of its calls are replayed
    assert desk.json("scenes", "usage.json") == before

"""The graph is plain data, and acyclic by construction."""

from __future__ import annotations

import pytest

from charforge.engine.graph import Graph, Output, Source, Stage


def stage(name, **inputs):
    async def run(_ctx):
        return {}

    return Stage(name, name, 1, {}, inputs, run)


def names(stages):
    return [one.name for one in stages]


DIAMOND = [
    stage("top"),
    stage("left", a=Output("top", "out")),
    stage("right", a=Output("top", "out"), b=Output("top", "more")),
    stage("bottom", a=Output("right", "out"), b=Output("left", "out")),
    stage("aside", a=Output("left", "out")),
]


def test_needed_is_the_target_and_what_it_stands_on_in_graph_order():
    graph = Graph(DIAMOND)
    assert names(graph.needed(["bottom"])) == ["top", "left", "right", "bottom"]
    assert names(graph.needed(["aside"])) == ["top", "left", "aside"]
    assert names(graph.needed(["aside", "right"])) == ["top", "left", "right", "aside"]
    assert names(graph.needed([])) == []


def test_upstream_names_each_stage_once_in_order():
    graph = Graph(DIAMOND)
    assert graph["right"].upstream() == ["top"]
    assert graph["bottom"].upstream() == ["right", "left"]


def test_sources_are_not_upstream():
    assert stage("a", x=Source("file", "0" * 64, b"")).upstream() == []


def test_a_graph_knows_its_stages():
    graph = Graph(DIAMOND)
    assert names(graph) == names(DIAMOND)
    assert "left" in graph
    assert "nowhere" not in graph


def test_a_name_taken_is_refused():
    with pytest.raises(ValueError) as caught:
        Graph([stage("a"), stage("a")])
    assert str(caught.value) == "stage 'a' is in the graph already"


def test_reading_from_a_later_stage_or_itself_is_refused():
    with pytest.raises(ValueError) as caught:
        Graph([stage("a", x=Output("b", "out")), stage("b")])
    assert str(caught.value) == "stage 'a' reads from 'b', which is not in the graph before it"
    with pytest.raises(ValueError) as caught:
        Graph([stage("a", x=Output("a", "out"))])
    assert str(caught.value) == "stage 'a' reads from 'a', which is not in the graph before it"


def test_an_inputs_label_is_how_a_person_knows_it():
    assert Output("scenes", "scenes.jsonl").label == "scenes/scenes.jsonl"
    assert Source("prompts/scene.j2", "0" * 64, b"").label == "prompts/scene.j2"


def test_a_sources_bytes_are_not_printed():
    assert "secret" not in repr(Source("file", "0" * 64, b"secret"))

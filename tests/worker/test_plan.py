"""From the effective document to nodes and routes."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.agent import Kind, Message
from worker.plan import Conversion, NodeSpec, Route, StartError, make_plan

TEN = Path(__file__).parent.parent / "data" / "ten"
FILES = sorted(TEN.glob("*.property.json"))


def graphs() -> Any:
    for path in FILES:
        document = json.loads(path.read_text())
        for entry in document.get("ten", document.get("_ten"))["predefined_graphs"]:
            yield pytest.param(document, entry, id=f"{path.name.removesuffix('.property.json')}-{entry['name']}")


def document(*nodes: Any, connections: Any = (), root: Any = "ten", nested: Any = True, **others: Any) -> Any:
    body = {"nodes": list(nodes), "connections": list(connections)}
    entry = {"name": "g", "auto_start": True, **({"graph": body} if nested else body)}
    return {root: {"predefined_graphs": [entry], **others}}


def node(name: Any, addon: Any = "echo", **others: Any) -> Any:
    return {"type": "extension", "name": name, "addon": addon, **others}


A, B, C = node("a"), node("b"), node("c")


def routes(*connections: Any, nodes: Any = (A, B, C), **others: Any) -> Any:
    return dict(make_plan(document(*nodes, connections=connections, **others), "g").routes)


def test_there_are_six_files() -> None:
    assert len(FILES) == 6


@pytest.mark.parametrize(("document", "entry"), list(graphs()))
def test_real_graphs(document: Any, entry: Any) -> None:
    plan = make_plan(document, entry["name"])
    body = entry.get("graph", entry)
    assert [spec.name for spec in plan.nodes] == [node["name"] for node in body["nodes"]]
    assert [spec.properties for spec in plan.nodes] == [node.get("property", {}) for node in body["nodes"]]
    assert plan.elsewhere == plan.subgraphs == plan.warnings == ()
    declared = {
        (kind, other["extension"], connection["extension"], name)
        if end == "source"
        else (kind, connection["extension"], other["extension"], name)
        for connection in body["connections"]
        for kind in Kind
        for flow in connection.get(kind, [])
        for end in ("source", "dest")
        for other in flow.get(end, [])
        for name in flow.get("names", [flow.get("name")])
    }
    planned = {
        (kind, source, route.node, name) for (kind, source, name), targets in plan.routes.items() for route in targets
    }
    assert planned == declared
    assert planned


@pytest.mark.parametrize("root", ["ten", "_ten"])
@pytest.mark.parametrize("nested", [True, False])
def test_both_layouts(root: Any, nested: Any) -> None:
    plan = make_plan(document(node("a", property={"k": 1}), root=root, nested=nested), "g")
    assert plan.nodes == (NodeSpec("a", "echo", {"k": 1}),)


def test_the_first_of_two_graphs_of_one_name_is_taken() -> None:
    both = document(A)
    both["ten"]["predefined_graphs"].append({"name": "g", "graph": {"nodes": [B]}})
    assert [spec.name for spec in make_plan(both, "g").nodes] == ["a"]


@pytest.mark.parametrize("entry", [{"name": "g"}, {"name": "g", "graph": {}}, {"name": "g", "graph": {"nodes": []}}])
def test_a_graph_without_nodes(entry: Any) -> None:
    assert make_plan({"ten": {"predefined_graphs": [entry]}}, "g").nodes == ()


@pytest.mark.parametrize("absent", [{}, {"property": None}, {"property": {}}])
def test_a_node_without_properties(absent: Any) -> None:
    assert make_plan(document(node("a", **absent)), "g").nodes == (NodeSpec("a", "echo", {}),)


def test_dest_and_source_mean_the_same() -> None:
    there = routes({"extension": "a", "data": [{"name": "x", "dest": [{"extension": "b"}, {"extension": "c"}]}]})
    back = routes(
        {"extension": "b", "data": [{"name": "x", "source": [{"extension": "a"}]}]},
        {"extension": "c", "data": [{"name": "x", "source": [{"extension": "a"}]}]},
    )
    assert there == back == {(Kind.DATA, "a", "x"): (Route("b"), Route("c"))}


def test_a_connection_written_at_both_ends_carries_a_message_once() -> None:
    assert routes(
        {"extension": "a", "data": [{"name": "x", "dest": [{"extension": "b"}]}]},
        {"extension": "b", "data": [{"name": "x", "source": [{"extension": "a"}]}]},
    ) == {(Kind.DATA, "a", "x"): (Route("b"),)}


def test_names_and_kinds() -> None:
    flow = {"names": ["x", "y"], "dest": [{"extension": "b"}]}
    for kind in Kind:
        assert routes({"extension": "a", kind: [flow]}) == {
            (kind, "a", "x"): (Route("b"),),
            (kind, "a", "y"): (Route("b"),),
        }


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"field": "name", "operator": "exact", "value": "b"}, ["b"]),
        ({"field": "name", "operator": "regex", "value": "^[bc]$"}, ["b", "c"]),
        ({"field": "addon", "operator": "exact", "value": "echo"}, ["a", "b", "c"]),
        ({"field": "nothing", "operator": "exact", "value": "x"}, []),
        (
            {
                "and": [
                    {"field": "addon", "operator": "exact", "value": "echo"},
                    {"or": [{"field": "name", "operator": "exact", "value": v} for v in ("a", "c")]},
                ]
            },
            ["a", "c"],
        ),
    ],
)
def test_selectors(chosen: Any, expected: Any) -> None:
    selector = {"type": "selector", "name": "s", "filter": chosen}
    flow = {"name": "x", "dest": [{"selector": "s"}]}
    planned = routes({"extension": "a", "cmd": [flow]}, nodes=(A, B, C, selector))
    assert [route.node for route in planned[(Kind.CMD, "a", "x")]] == expected
    mirrored = {"extension": "a", "cmd": [{"name": "x", "source": [{"selector": "s"}]}]}
    assert [key[1] for key in routes(mirrored, nodes=(A, B, C, selector))] == expected


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        ({"extension": "nobody", "data": [{"name": "x", "dest": [{"extension": "b"}]}]}, "nobody"),
        ({"extension": "a", "data": [{"name": "x", "dest": [{"extension": "nobody"}]}]}, "nobody"),
        ({"extension": "a", "data": [{"name": "x", "source": [{"extension": "sub:inner"}]}]}, "sub:inner"),
        ({"extension": "a", "data": [{"name": "x", "dest": [{"selector": "nobody"}]}]}, "nobody"),
        ({"extension": "a", "data": [{"name": "x", "dest": [{"app": "elsewhere", "extension": "b"}]}]}, "b"),
    ],
)
def test_unknown_ends_are_warned_of_and_ignored(connection: Any, name: Any) -> None:
    plan = make_plan(document(A, B, connections=[connection]), "g")
    assert not any(plan.routes.values())
    assert plan.warnings == ({"event": "graph.end_unknown", "where": "connection 0", "node": name},)


def test_nodes_of_other_processes_and_subgraphs_are_told_apart() -> None:
    plan = make_plan(
        document(
            node("far", app="msgpack://elsewhere:8001/"),
            node("near", app="localhost"),
            node("own", app="msgpack://here:1/"),
            {"type": "subgraph", "name": "sub", "graph": {"import_uri": "x.json"}},
            uri="msgpack://here:1/",
        ),
        "g",
    )
    assert [spec.name for spec in plan.nodes] == ["near", "own"]
    assert plan.elsewhere == ("far",)
    assert plan.subgraphs == ("sub",)


def test_the_second_node_of_a_name_is_warned_of() -> None:
    plan = make_plan(document(A, node("a", addon="other")), "g")
    assert plan.nodes == (NodeSpec("a", "echo", {}),)
    assert plan.warnings == ({"event": "graph.node_repeated", "node": "a"},)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({}, "neither a 'ten' nor a '_ten'"),
        ({"ten": []}, "neither a 'ten' nor a '_ten'"),
        ({"ten": {}}, "holds no graph 'g'"),
        ({"ten": {"predefined_graphs": {}}}, "'predefined_graphs' must be a list, not {}"),
        ({"ten": {"predefined_graphs": [{"name": "h"}]}}, "holds no graph 'g'"),
        ({"ten": {"predefined_graphs": [{"name": "g", "graph": 5}]}}, "'graph' must be an object, not 5"),
        (document(5), "'nodes' holds 5"),
        (document({"type": "extension", "addon": "echo"}), "node 0 has the name None"),
        (document({"type": "extension", "name": "a"}), "node 'a' names the add-on None"),
        (document(node("a", property=[1])), "node 'a': 'property' must be an object, not [1]"),
        (document({"type": "graph", "name": "a"}), "'graph'; allowed are extension, subgraph, selector"),
        (document(A, connections=[{"data": []}]), "connection 0: an end names exactly one of"),
        (document(A, connections=[{"extension": "a", "data": {}}]), "connection 0: 'data' must be a list"),
        (document(A, connections=[{"extension": "a", "data": [{"dest": []}]}]), "a 'name' or a list of 'names'"),
        (document(A, connections=[{"extension": "a", "data": [{"names": "xy"}]}]), "a 'name' or a list of 'names'"),
        (
            document(
                A,
                {"type": "selector", "name": "s", "filter": {"field": "name", "operator": "like", "value": "x"}},
                connections=[{"selector": "s"}],
            ),
            "selector 's': a filter is",
        ),
        (
            document(
                A,
                {"type": "selector", "name": "s", "filter": {"field": "name", "operator": "regex", "value": "("}},
                connections=[{"selector": "s"}],
            ),
            "is no regular expression",
        ),
    ],
)
def test_what_is_wrong_is_named(broken: Any, told: Any) -> None:
    with pytest.raises(StartError) as caught:
        make_plan(broken, "g")
    assert caught.value.cause == "graph_invalid"
    assert told in caught.value.detail


MESSAGE = Message(kind=Kind.CMD, name="x", properties={"a": 1, "deep": {"b": 2}}, body=b"z")


@pytest.mark.parametrize(
    ("rules", "keep", "name", "properties"),
    [
        ([("a", 9)], True, "x", {"a": 9, "deep": {"b": 2}}),
        ([("a", 9)], False, "x", {"a": 9}),
        ([("deep.c", 3)], True, "x", {"a": 1, "deep": {"b": 2, "c": 3}}),
        ([("deep.c", 3)], False, "x", {"deep": {"c": 3}}),
        ([("a.b.c", 3)], True, "x", {"a": {"b": {"c": 3}}, "deep": {"b": 2}}),
        ([("ten.name", "y")], True, "y", {"a": 1, "deep": {"b": 2}}),
        ([("_ten.name", "y"), ("k", [1])], False, "y", {"k": [1]}),
    ],
)
def test_conversions(rules: Any, keep: Any, name: Any, properties: Any) -> None:
    declared = {
        "type": "per_property",
        "keep_original": keep,
        "rules": [{"path": path, "conversion_mode": "fixed_value", "value": value} for path, value in rules],
    }
    flow = {"name": "x", "dest": [{"extension": "b", "msg_conversion": declared}]}
    (route,) = routes({"extension": "a", "cmd": [flow]})[(Kind.CMD, "a", "x")]
    assert isinstance(route.conversion, Conversion)
    converted = route.conversion.apply(MESSAGE)
    assert (converted.name, converted.properties, converted.body) == (name, properties, b"z")
    assert MESSAGE.properties == {"a": 1, "deep": {"b": 2}}


@pytest.mark.parametrize(
    "declared",
    [
        5,
        {"type": "other"},
        {"type": "per_property", "rules": [{"path": "a", "conversion_mode": "from_original", "original_path": "b"}]},
        {"type": "per_property", "rules": [{"path": "a[0]", "conversion_mode": "fixed_value", "value": 1}]},
        {"type": "per_property", "rules": [{"path": "a..b", "conversion_mode": "fixed_value", "value": 1}]},
        {"type": "per_property", "rules": [{"path": "a", "conversion_mode": "fixed_value"}]},
    ],
)
def test_conversions_that_cannot_be_done_are_named(declared: Any) -> None:
    flow = {"name": "x", "dest": [{"extension": "b", "msg_conversion": declared}]}
    with pytest.raises(StartError, match="connection 0: "):
        routes({"extension": "a", "cmd": [flow]})

"""supervisor.property and its parts: every numbered case of wire/ten-property.md carries its number in its test id."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.causes import Cause, Refusal
from supervisor.options import LIMIT_RANGES
from supervisor.placeholders import MAX_LITERAL
from supervisor.property import (
    INJECTIONS,
    GraphListing,
    GraphOptions,
    StartParameters,
    check_overrides,
    dump_document,
    imported_paths,
    injection_table,
    list_graphs,
    merged,
    parse_document,
    select,
)
from supervisor.strict_json import MAX_DEPTH, MAX_DIGITS, is_deeper
from worker.spawn import Limits

TEN = Path(__file__).parent / "data" / "ten"
START = StartParameters("lobby", user_uid=7, bot_uid=9, token="tok", port=4242)
LLM = {"model": "a", "params": {"k": 1, "deep": {"a": 1, "b": 2}}, "tags": ["x"], "n": 5}


def document(*nodes: Any, **rest: Any) -> dict[str, Any]:
    return {"ten": {"predefined_graphs": [{"name": "g", "graph": {"nodes": list(nodes)}, **rest}]}}


def base() -> dict[str, Any]:
    return document({"name": "llm", "addon": "l", "property": copy.deepcopy(LLM)}, {"name": "log_sink", "addon": "s"})


def effective(
    source: dict[str, Any],
    overrides: Any = None,
    environment: dict[str, str] | None = None,
    missing: Any = "error",
    start: StartParameters = START,
    graph: str = "g",
    **options: Any,
) -> dict[str, Any]:
    return select(source, graph, **options).prepare(start, overrides).for_worker(environment or {}, missing)


def nodes_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    section = result.get("ten") or result["_ten"]
    return [node for entry in section["predefined_graphs"] for node in entry.get("graph", entry).get("nodes", [])]


def property_of(result: dict[str, Any], name: str = "llm") -> Any:
    return next(node for node in nodes_of(result) if node["name"] == name).get("property", "absent")


def refusal(call: Any, *args: Any, **kwargs: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*args, **kwargs)
    return caught.value


def refused(cause: Cause, call: Any, *args: Any, **kwargs: Any) -> str:
    found = refusal(call, *args, **kwargs)
    assert found.cause is cause
    return found.detail


class FrozenDict(dict[str, Any]):
    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the cached document was changed")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refuse


class FrozenList(list[Any]):
    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the cached document was changed")

    __setitem__ = __delitem__ = __iadd__ = append = extend = insert = pop = remove = clear = sort = reverse = _refuse


def frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list):
        return FrozenList(frozen(item) for item in value)
    return value


def mutable_parts(value: Any) -> set[int]:
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
        return {id(value)}.union(*map(mutable_parts, children))
    return set()


# -- 2.1 selection -------------------------------------------------------------------------------------------------


def case(number: int, *values: Any, note: str = "") -> Any:
    return pytest.param(*values, id=f"case-{number}" + (f"-{note}" if note else ""))


def three_graphs() -> dict[str, Any]:
    graphs = [{"name": name, "auto_start": False, "graph": {"nodes": [{"name": f"n_{name}"}]}} for name in "abc"]
    return {"ten": {"predefined_graphs": graphs}}


@pytest.mark.parametrize(
    ("source", "graph", "expected"),
    [
        case(
            1,
            three_graphs(),
            "b",
            {"ten": {"predefined_graphs": [{"name": "b", "auto_start": True, "graph": {"nodes": [{"name": "n_b"}]}}]}},
        ),
        case(
            3,
            {"x": [1], "ten": {"log": {"h": []}, "uri": "u", "odd": None, "predefined_graphs": [{"name": "g"}]}},
            "g",
            {
                "x": [1],
                "ten": {
                    "log": {"h": []},
                    "uri": "u",
                    "odd": None,
                    "predefined_graphs": [{"name": "g", "auto_start": True}],
                },
            },
        ),
        case(
            3,
            {"ten": {"log": {"f": "${env:A}"}, "predefined_graphs": [{"name": "g", "graph": {"note": "${env:A}"}}]}},
            "g",
            {
                "ten": {
                    "log": {"f": "${env:A}"},
                    "predefined_graphs": [{"name": "g", "graph": {"note": "${env:A}"}, "auto_start": True}],
                }
            },
            note="placeholders-outside-node-properties",
        ),
        case(
            4,
            {"_ten": {"predefined_graphs": [{"name": "g", "auto_start": False, "nodes": [{"name": "agora_rtm"}]}]}},
            "g",
            {
                "_ten": {
                    "predefined_graphs": [
                        {
                            "name": "g",
                            "auto_start": True,
                            "nodes": [
                                {
                                    "name": "agora_rtm",
                                    "property": {"channel": "lobby", "user_id": "9", "token": "tok"},
                                }
                            ],
                        }
                    ]
                }
            },
        ),
        case(
            4,
            {"_ten": {"old": 1}, "ten": {"predefined_graphs": [{"name": "g", "auto_start": True}]}},
            "g",
            {"_ten": {"old": 1}, "ten": {"predefined_graphs": [{"name": "g", "auto_start": True}]}},
            note="ten-preferred",
        ),
        case(
            7,
            {"ten": {"predefined_graphs": [{"name": "g", "auto_start": True, "graph": {"nodes": []}}]}},
            "g",
            {"ten": {"predefined_graphs": [{"name": "g", "auto_start": True, "graph": {"nodes": []}}]}},
            note="no-node",
        ),
        case(
            7,
            {"ten": {"predefined_graphs": [{"name": "g", "auto_start": True, "graph": {}}]}},
            "g",
            {"ten": {"predefined_graphs": [{"name": "g", "auto_start": True, "graph": {}}]}},
            note="no-nodes",
        ),
    ],
)
def test_selection(source: dict[str, Any], graph: str, expected: dict[str, Any]) -> None:
    assert effective(source, graph=graph) == expected


@pytest.mark.parametrize("graph", [case(2, "z", note="unknown"), case(2, "", note="empty")])
def test_selection_unknown_graph(graph: str) -> None:
    assert "'a', 'b', 'c'" in refused(Cause.GRAPH_UNKNOWN, select, three_graphs(), graph)


def test_selection_of_the_empty_name_is_unknown_even_where_a_graph_has_it() -> None:
    refused(Cause.GRAPH_UNKNOWN, select, {"ten": {"predefined_graphs": [{"name": ""}]}}, "")


def test_unknown_graph_detail_is_bounded() -> None:
    many = {"ten": {"predefined_graphs": [{"name": f"g{number}"} for number in range(500)]}}
    detail = refused(Cause.GRAPH_UNKNOWN, select, many, "x" * 10_000)
    assert len(detail) < 500
    assert detail.endswith("and 480 more")


@pytest.mark.parametrize("layout", [case(5, "graph"), case(5, None, note="older-layout")])
def test_two_graphs_of_a_name(layout: str | None) -> None:
    def entry(model: str) -> dict[str, Any]:
        body = {"nodes": [{"name": "llm", "property": {"model": model}}]}
        return {"name": "g", layout: body} if layout else {"name": "g", **body}

    source = {"ten": {"predefined_graphs": [entry("a"), {"name": "other"}, entry("b")]}}
    result = effective(source, {"llm": {"n": 1}})
    assert [node["property"] for node in nodes_of(result)] == [{"model": "a", "n": 1}, {"model": "b", "n": 1}]


@pytest.mark.parametrize("count", [case(6, 2)])
def test_two_nodes_of_a_name(count: int) -> None:
    overrides = {"llm": {"params": {"shared": []}}}
    result = effective(document(*[{"name": "llm"} for _ in range(count)]), overrides)
    first, second = (node["property"]["params"] for node in nodes_of(result))
    assert first == second == {"shared": []}
    assert not mutable_parts(first) & mutable_parts(second)
    assert not mutable_parts(first) & mutable_parts(overrides)


@pytest.mark.parametrize(
    ("source", "where"),
    [
        case(8, {}, "ten", note="no-root"),
        case(8, {"ten": []}, "a list", note="root-list"),
        case(8, {"ten": {}}, "missing", note="no-graphs"),
        case(8, {"_ten": {"predefined_graphs": {}}}, "_ten.predefined_graphs is an object", note="graphs-object"),
        case(8, {"ten": {"predefined_graphs": None}}, "null", note="graphs-null"),
        case(8, {"ten": {"predefined_graphs": ["g"]}}, "predefined_graphs[0] is a string", note="entry"),
        case(8, {"ten": {"predefined_graphs": [{}]}}, "predefined_graphs[0].name is missing", note="entry-name"),
    ],
)
def test_unusable_file(source: dict[str, Any], where: str) -> None:
    for call in (lambda: select(source, "g"), lambda: list_graphs(source)):
        assert where in refused(Cause.PROPERTY_INVALID, call)


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"graph": []}, "graph is a list"),
        ({"graph": {"nodes": {}}}, "nodes is an object"),
        ({"graph": {"nodes": [5]}}, "nodes[0] is a number"),
        ({"graph": {"nodes": [{"name": "a"}, {"addon": "b"}]}}, "nodes[1].name is missing"),
        ({"nodes": [{"name": 5}]}, "nodes[0].name is a number"),
        ({"graph": {"nodes": [{"name": "a", "property": True}]}}, "property of 'a' is a boolean"),
        ({"graph": {"import_uri": 5}}, "import_uri"),
        ({"graph": {"import_uri": ""}}, "import_uri"),
        ({"graph": {"import_uri": "a.json", "nodes": []}}, "import_uri"),
    ],
)
def test_a_malformed_graph_does_not_harm_the_others(entry: dict[str, Any], where: str) -> None:
    source = {"ten": {"predefined_graphs": [{"name": "bad", **entry}, {"name": "good"}]}}
    detail = refused(Cause.PROPERTY_INVALID, select, source, "bad")
    assert where in detail
    assert "'bad'" in detail
    assert effective(source, graph="good")
    assert [graph.name for graph in list_graphs(source)] == ["bad", "good"]


@pytest.mark.parametrize("uri", [case(9, "graphs/a.json"), case(9, "./a b.json", note="dotted")])
def test_imported_graph_is_put_in_place(uri: str) -> None:
    source = {"ten": {"predefined_graphs": [{"name": "g", "graph": {"import_uri": uri}}]}}
    assert imported_paths(source, "g") == [uri]
    assert imported_paths(source, "other") == []
    graph = {"nodes": [{"name": "llm", "property": {"key": "${env:A}", "channel": ""}}], "connections": []}
    selection = select(frozen(source), "g", imports={uri: frozen(graph)})
    prepared = selection.prepare(START, {"llm": {"n": 1}})
    assert prepared.warnings == ()
    entry = prepared.for_worker({"A": "x"}, "error")["ten"]["predefined_graphs"][0]
    assert entry["graph"] == {
        "nodes": [{"name": "llm", "property": {"key": "x", "channel": "lobby", "n": 1}}],
        "connections": [],
    }


@pytest.mark.parametrize(
    "uri",
    [
        case(9, "http://h/a.json", note="http"),
        case(9, "https://h/a.json", note="https"),
        case(9, "file:///a.json", note="file"),
        case(9, "FILE:a", note="case"),
        case(9, "${app_base_dir}/a.json", note="app-base-dir"),
    ],
)
def test_import_from_elsewhere_is_passed_on_with_a_warning(uri: str) -> None:
    source = {"ten": {"predefined_graphs": [{"name": "g", "auto_start": True, "graph": {"import_uri": uri}}]}}
    assert imported_paths(source, "g") == []
    prepared = select(source, "g").prepare(START, {"llm": {"a": 1}})
    assert prepared.for_worker({}, "error") == source
    assert uri in prepared.warnings[0]


def test_an_imported_graph_that_imports_is_refused() -> None:
    source = {"ten": {"predefined_graphs": [{"name": "g", "graph": {"import_uri": "a"}}]}}
    assert "again" in refused(Cause.PROPERTY_INVALID, select, source, "g", imports={"a": {"import_uri": "b"}})


@pytest.mark.parametrize("kind", [case(10, "subgraph")])
def test_subgraph_node(kind: str) -> None:
    node = {"type": kind, "name": "sub", "graph": {"import_uri": "s.json"}, "property": {"a": 1}}
    result = effective(document(node), {"sub": {"b": 2}, "sub:inner": {"c": 3}})
    assert nodes_of(result) == [{**node, "property": {"a": 1, "b": 2}}]


def test_a_selector_is_never_touched() -> None:
    node = {"type": "selector", "name": "agora_rtc", "filter": {"field": "name"}, "property": {"channel": "${env:A}"}}
    selection = select(document(node), "g")
    assert nodes_of(selection.prepare(START, {"agora_rtc": {"x": 1}}).for_worker({}, "error")) == [node]
    assert not selection.needs_token


ROUND_TRIP = [
    case(11, "9007199254740993", note="2-53"),
    case(11, "-" + "9" * MAX_DIGITS, note="most-digits"),
    case(12, '{"b":1,"a":2,"":3}', note="key-order"),
    case(12, '"日本語 \u00e9 \U0001f642 \\" \\\\ \\u0000 / \u2028"', note="text"),
    case(12, "[0.1,1e-07,1.7976931348623157e+308,-0.0,5e-324,1.0]", note="floats"),
    case(12, "[null,true,false,[],{}]", note="constants"),
]


@pytest.mark.parametrize("text", ROUND_TRIP)
def test_round_trip(text: str) -> None:
    data = (
        '{"z":%s,"ten":{"x":%s,"predefined_graphs":[{"auto_start":true,"name":"g",'
        '"graph":{"connections":%s,"nodes":[{"property":{"v":%s},"name":"llm"}]}}]}}' % ((text,) * 4)
    ).encode()
    source = parse_document(data)
    assert dump_document(source) == data
    assert dump_document(effective(source)) == data
    assert dump_document(select(source, "g").prepare(START).for_command({}, "error")[0]) == data
    assert dump_document(effective(source, {"llm": {"v": json.loads(text)}})) == data


# -- 2.2 overrides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        case(20, {"llm": {"model": "b"}}, {"model": "b"}),
        case(21, {"llm": {"new": 7}}, {"new": 7}),
        case(22, {"llm": {"params": {"k": 2}}}, {"params": {"k": 2, "deep": {"a": 1, "b": 2}}}),
        case(
            23,
            {"llm": {"params": {"deep": {"b": 3, "c": 4}}}},
            {"params": {"k": 1, "deep": {"a": 1, "b": 3, "c": 4}}},
        ),
        case(24, {"llm": {"tags": ["y"]}}, {"tags": ["y"]}),
        case(25, {"llm": {"n": {"z": 1}}}, {"n": {"z": 1}}),
        case(26, {"llm": {"params": 9}}, {"params": 9}, note="scalar"),
        case(26, {"llm": {"params": [1]}}, {"params": [1]}, note="list"),
        case(26, {"llm": {"params": None}}, {"params": None}, note="null"),
        case(27, {"llm": {"params": {"deep": 9}}}, {"params": {"k": 1, "deep": 9}}),
        case(28, {"llm": {"model": None}}, {"model": None}),
        case(29, {"llm": {"params": {}}}, {}),
        case(30, {"llm": {}}, {}, note="empty-node"),
        case(30, {"llm": None}, {}, note="null-node"),
        case(30, {}, {}, note="empty"),
        case(30, None, {}, note="null"),
        case(31, {"nobody": {"a": 1}}, {}),
        case(32, {"": {"a": 1}}, {}),
        case(36, {"llm": {"a.b": 1}}, {"a.b": 1}),
        case(37, {"LLM": {"model": "b"}, "llm": {"Model": "c"}}, {"Model": "c"}),
        case(38, {"llm": {"greeting": "${env:HOME}"}}, {"greeting": "${env:HOME}"}),
        case(
            38,
            {"llm": {"params": {"list": ["${env:HOME|d}", {"x": "${bad}"}]}}},
            {"params": {**LLM["params"], "list": ["${env:HOME|d}", {"x": "${bad}"}]}},
            note="deep",
        ),
    ],
)
def test_overrides(overrides: Any, changed: dict[str, Any]) -> None:
    before = copy.deepcopy(overrides)
    result = effective(frozen(base()), overrides, {"HOME": "secret"})
    assert property_of(result) == {**LLM, **changed}
    assert list(property_of(result))[:4] == list(LLM)
    assert property_of(result, "log_sink") == "absent"
    assert overrides == before


@pytest.mark.parametrize(
    "node",
    [case(33, {"name": "log_sink"}), case(34, {"name": "log_sink", "property": None})],
)
def test_override_of_a_node_without_property(node: dict[str, Any]) -> None:
    assert property_of(effective(document(node), {"log_sink": {"a": 1}}), "log_sink") == {"a": 1}
    assert nodes_of(effective(document(node), {"log_sink": {}})) == [node]


@pytest.mark.parametrize(
    "overrides",
    [
        case(35, {"llm": 5}, note="number"),
        case(35, {"llm": []}, note="list"),
        case(35, {"llm": "x"}, note="string"),
        case(35, {"llm": False}, note="boolean"),
        case(35, {"nobody": 5}, note="unknown-node"),
        case(35, [], note="properties-list"),
        case(35, "x", note="properties-string"),
        case(35, 0, note="properties-number"),
    ],
)
def test_overrides_of_a_wrong_type(overrides: Any) -> None:
    for call in (lambda: effective(base(), overrides), lambda: check_overrides(overrides)):
        assert "allowed" in refused(Cause.BODY_INVALID, call)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"x": value}
    return value


def test_overrides_nested_too_deep() -> None:
    assert effective(base(), {"llm": nested(MAX_DEPTH - 1)})
    detail = refused(Cause.BODY_INVALID, effective, base(), {"llm": nested(MAX_DEPTH)})
    assert str(MAX_DEPTH) in detail
    refused(Cause.BODY_INVALID, check_overrides, nested(100_000))


@pytest.mark.parametrize(("first", "second"), [case(39, {"llm": {"params": {"k": 2}}}, {"llm": {"n": 6}})])
def test_a_start_sees_nothing_of_another(first: Any, second: Any) -> None:
    source = frozen(base())
    selection = select(source, "g")
    one = selection.prepare(START, first).for_worker({}, "error")
    prepared = selection.prepare(StartParameters("other"), second)
    two, three = prepared.for_worker({}, "error"), prepared.for_command({}, "error")[0]
    assert property_of(one) == {**LLM, "params": {**LLM["params"], "k": 2}}
    assert property_of(two) == property_of(three) == {**LLM, "n": 6}
    parts = [mutable_parts(value) for value in (source, one, two, three)]
    assert sum(map(len, parts)) == len(set().union(*parts))


@pytest.mark.parametrize("overrides", [case(40, {"n_a": {"x": 1}})])
def test_override_of_a_node_of_another_graph(overrides: Any) -> None:
    assert nodes_of(effective(three_graphs(), overrides, graph="b")) == [{"name": "n_b"}]


def test_unknown_nodes_are_warned_about_once_and_bounded() -> None:
    overrides = {f"n{number}": {"a": 1} for number in range(1000)}
    (warning,) = select(base(), "g").prepare(START, overrides).warnings
    assert "'n0', 'n1'" in warning
    assert "and 980 more" in warning
    assert select(base(), "g").prepare(START, {"nobody": None, "llm": {}}).warnings == ()


@pytest.mark.parametrize(
    ("patterns", "overrides", "refused_names"),
    [
        (None, {"llm": {"model": 1}}, None),
        (["llm.model"], {"llm": {"model": 1}}, None),
        (["llm.*"], {"llm": {"model": 1, "params": {"k": 2}}}, None),
        (["*.model", "log_sink.a"], {"llm": {"model": 1}, "log_sink": {"a": 1}}, None),
        (["llm.params"], {"llm": {"params": {"anything": {"deep": 1}}}}, None),
        (["llm.model"], {"nobody": {"a": 1}}, None),
        (["llm.model"], {"llm": {}, "log_sink": None}, None),
        (["llm.model"], {"llm": {"Model": 1}}, "'llm.Model'"),
        (["llm.model"], {"llm": {"base_url": 1, "model": 2, "n": 3}}, "'llm.base_url', 'llm.n'"),
        (["llm.model"], {"llm": {"*": 1}}, "'llm.*'"),
        ([], {"llm": {"model": 1}}, "'llm.model'; allowed: none"),
    ],
)
def test_overridable(patterns: list[str] | None, overrides: Any, refused_names: str | None) -> None:
    selection = select(base(), "g")
    if refused_names is None:
        assert selection.prepare(START, overrides, overridable=patterns)
    else:
        detail = refused(Cause.OVERRIDE_REFUSED, selection.prepare, START, overrides, overridable=patterns)
        assert refused_names in detail


# A small alphabet: the tables of all of Unicode take seconds to build where hypothesis has no cache of them yet.
WORDS = st.text("aé$🙂", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4)


@given(OBJECTS, OBJECTS)
def test_merge_is_idempotent_and_changes_no_argument(old: dict[str, Any], changes: dict[str, Any]) -> None:
    once = merged(frozen(old), frozen(changes))
    assert merged(once, changes) == once
    assert merged(once, {}) == once
    assert merged({}, changes) == changes
    assert set(once) == set(old) | set(changes)
    assert list(once)[: len(old)] == list(old)


@given(OBJECTS, OBJECTS, OBJECTS)
def test_merge_of_scalars_at_a_key_takes_the_last(
    old: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    result = merged(merged(old, first), second)
    for key, value in second.items():
        if not isinstance(value, dict):
            assert result[key] == value


# -- 2.3 environment placeholders ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "environment", "expected"),
    [
        case(50, "${env:A}", {"A": "x"}, "x"),
        case(51, "${env:A}", {"A": ""}, ""),
        case(53, "${env:A|}", {}, ""),
        case(54, "${env:A|d}", {}, "d"),
        case(54, "${env:A|d}", {"A": "x"}, "x", note="set"),
        case(55, "${env:A|d|e}", {}, "d|e"),
        case(55, "${env:A| a:b }", {}, " a:b ", note="verbatim"),
        case(55, "${env:A|{}}", {}, "{}", note="braces"),
        case(56, "${env:A|d}", {"A": ""}, ""),
        case(57, "pre ${env:A}", {"A": "x"}, "pre ${env:A}", note="before"),
        case(57, "${env:A} post", {"A": "x"}, "${env:A} post", note="after"),
        case(57, " ${env:A}", {"A": "x"}, " ${env:A}", note="space"),
        case(57, "${", {}, "${", note="half"),
        case(57, "$env:A", {}, "$env:A", note="no-brace"),
        case(58, "${env:N|8080}", {}, "8080"),
        case(59, {"a": {"b": {"c": {"d": "${env:A}"}}}}, {"A": "x"}, {"a": {"b": {"c": {"d": "x"}}}}, note="deep"),
        case(59, ["${env:A}", {"b": ["${env:A}"]}], {"A": "x"}, ["x", {"b": ["x"]}], note="list"),
        case(61, "${env:A}", {"A": "${env:B}", "B": "y"}, "${env:B}"),
        case(61, "${env:A|${env:B}}", {"B": "y"}, "${env:B}", note="default"),
    ],
)
def test_placeholder(value: Any, environment: dict[str, str], expected: Any) -> None:
    source = frozen(document({"name": "llm", "property": {"v": value}}))
    for missing in ("error", "empty"):
        assert property_of(effective(source, None, environment, missing))["v"] == expected


def many_missing() -> dict[str, Any]:
    return document(
        {"name": "llm", "property": {"key": "${env:A}", "deep": [{"x": "${env:B}"}], "set": "${env:SET}"}},
        {"name": "tts", "property": {"key": "${env:A}", "other": "${env:C|secret-default}"}},
    )


@pytest.mark.parametrize("render", [case(52, "for_worker"), case(52, "for_command", note="foreign")])
def test_missing_variables_are_reported_together_without_values(render: str) -> None:
    prepared = select(many_missing(), "g").prepare(START, {"llm": {"x": "secret-override"}})
    environment = {"SET": "secret-value"}
    detail = refused(Cause.PLACEHOLDER_UNRESOLVED, getattr(prepared, render), environment, "error")
    assert detail == "environment variables not set: A (node llm, tts), B (node llm)"


@pytest.mark.parametrize("missing", [case(52, "empty", note="setting-empty")])
def test_missing_variables_as_empty(missing: Any) -> None:
    result = effective(many_missing(), None, {"SET": "s"}, missing)
    assert property_of(result) == {"key": "", "deep": [{"x": ""}], "set": "s"}
    assert property_of(result, "tts") == {"key": "", "other": "secret-default"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        case(60, "${other:A}", "'other'"),
        case(60, "${other:A|d}", "'other'", note="default"),
        case(60, "${Env:A}", "'Env'", note="case"),
        case(60, "${A}", "without a scope", note="no-scope"),
        case(60, "${}", "without a scope", note="empty"),
        case(60, "${env:}", "name of a variable", note="no-name"),
        case(60, "${env:|d}", "name of a variable", note="no-name-default"),
        case(60, "${env:AGENTD_LITERAL_1}", "reserved", note="reserved"),
    ],
)
def test_malformed_placeholder(value: str, named: str) -> None:
    source = document({"name": "llm", "property": {"a": value, "b": [value]}})
    prepared = select(source, "g").prepare(START)
    for render in (prepared.for_worker, prepared.for_command):
        detail = refused(Cause.PROPERTY_INVALID, render, {}, "empty")
        assert named in detail
        assert "'llm'" in detail
    assert property_of(effective(source, {"llm": {"a": 1, "b": 2}})) == {"a": 1, "b": 2}


@pytest.mark.parametrize("override", [case(62, "given"), case(62, "${env:A}", note="literal")])
def test_override_wins_over_a_missing_variable(override: str) -> None:
    source = document({"name": "llm", "property": {"key": "${env:A}", "p": {"key": "${env:B}"}}})
    prepared = select(source, "g").prepare(START, {"llm": {"key": override, "p": {"key": override}}})
    assert property_of(prepared.for_worker({}, "error")) == {"key": override, "p": {"key": override}}
    assert prepared.for_command({}, "error")


def test_injection_wins_over_a_missing_variable() -> None:
    source = document({"name": "agora_rtc", "property": {"token": "${env:A}", "channel": "${env:B}"}})
    assert effective(source)


def test_a_variable_that_is_not_text_is_refused_without_its_value() -> None:
    source = document({"name": "llm", "property": {"key": "${env:A}"}})
    detail = refused(Cause.PLACEHOLDER_UNRESOLVED, effective, source, None, {"A": "secret\udcff"})
    assert detail == "environment variable A (node llm) does not hold UTF-8 text"


def test_for_command_keeps_placeholders_and_hands_their_variables_over() -> None:
    source = document(
        {"name": "llm", "property": {"a": "${env:A}", "b": "${env:B|d}", "c": "${env:C|d}", "e": ["${env:E}"]}}
    )
    overrides = {"llm": {"g": "${env:HOME}", "h": ["${bad}", "plain ${env:A}"]}}
    start = StartParameters("${env:HOME}")
    source["ten"]["predefined_graphs"][0]["graph"]["nodes"].append({"name": "avatar", "property": {"channel": ""}})
    environment = {"A": "x", "C": "", "HOME": "/root", "UNUSED": "secret"}
    prepared = select(frozen(source), "g").prepare(start, overrides)
    result, variables = prepared.for_command(environment, "empty")
    kept = property_of(result)
    assert {key: kept[key] for key in "abce"} == {
        "a": "${env:A}",
        "b": "${env:B|d}",
        "c": "${env:C|d}",
        "e": ["${env:E}"],
    }
    assert {key: variables[key] for key in "ACE"} == {"A": "x", "C": "", "E": ""}
    assert "B" not in variables  # its default is the foreign runtime's to take
    assert "HOME" not in variables
    assert "UNUSED" not in variables

    def resolved(text: str) -> str:
        return variables[text.removeprefix("${env:").removesuffix("}")]

    assert resolved(kept["g"]) == "${env:HOME}"
    assert resolved(kept["h"][0]) == "${bad}"
    assert kept["h"][1] == "plain ${env:A}"
    assert resolved(property_of(result, "avatar")["channel"]) == "${env:HOME}"
    assert sorted(variables) == ["A", "AGENTD_LITERAL_1", "AGENTD_LITERAL_2", "AGENTD_LITERAL_3", "C", "E"]
    assert property_of(prepared.for_worker(environment, "empty"), "avatar") == {"channel": "${env:HOME}"}


@pytest.mark.parametrize("text", ["${env:\0}", "${\ud800}", "${" + "x" * MAX_LITERAL + "}"])
def test_for_command_refuses_what_no_variable_can_hold(text: str) -> None:
    prepared = select(base(), "g").prepare(START, {"llm": {"g": text}})
    refused(Cause.BODY_INVALID, prepared.for_command, {}, "error")
    assert property_of(prepared.for_worker({}, "error"))["g"] == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_dump_refuses_what_is_not_json(value: Any) -> None:
    refused(Cause.BODY_INVALID, dump_document, effective(base(), {"llm": {"g": value}}))


SECRETS = st.text(st.sampled_from("${}env:|A"), max_size=12) | st.just("${env:A}")


@given(SECRETS)
@settings(max_examples=300)
def test_no_request_text_is_ever_expanded(text: str) -> None:
    prepared = select(base(), "g").prepare(
        StartParameters(text), {"llm": {"t": text, "channel": 1, "l": [{"t": text}]}}
    )
    assert property_of(prepared.for_worker({"A": "secret"}, "error")) == {
        **LLM, "t": text, "channel": text, "l": [{"t": text}]
    }  # fmt: skip
    kept, variables = prepared.for_command({"A": "secret"}, "error")
    shown = property_of(kept)["t"]
    name = shown.removeprefix("${env:").removesuffix("}")
    assert text == (variables[name] if shown != text else shown)
    assert "secret" not in variables.values()


# -- 2.4 injection -------------------------------------------------------------------------------------------------

RTC = {"channel": "lobby", "remote_stream_id": 7, "stream_id": 9, "token": "tok"}
RTM = {"channel": "lobby", "user_id": "9", "token": "tok"}


@pytest.mark.parametrize(
    ("node", "overrides", "start", "expected"),
    [
        case(70, {"name": "agora_rtc", "property": {"app_id": "i"}}, None, START, {"app_id": "i", **RTC}, note="rtc"),
        case(70, {"name": "agora_rtm", "property": {"a": 1}}, None, START, {"a": 1, **RTM}, note="rtm"),
        case(70, {"name": "http_server", "property": {}}, None, START, {"listen_port": 4242}, note="http"),
        case(70, {"name": "avatar", "property": {"a": 1}}, None, START, {"a": 1}, note="any-node-without"),
        case(70, {"name": "avatar", "property": {"channel": "x"}}, None, START, {"channel": "lobby"}, note="any-node"),
        case(
            71,
            {"name": "agora_rtc", "property": {"remote_stream_id": 123}},
            None,
            StartParameters("lobby", bot_uid=9, token="tok"),
            {**RTC, "remote_stream_id": 0},
        ),
        case(
            72,
            {"name": "agora_rtc", "property": {"stream_id": 1234}},
            None,
            StartParameters("lobby", user_uid=7, token="tok"),
            {**RTC, "stream_id": 0},
        ),
        case(
            72,
            {"name": "agora_rtm", "property": {"user_id": "5"}},
            None,
            StartParameters("lobby", token="tok"),
            {**RTM, "user_id": "0"},
            note="rtm",
        ),
        case(73, {"name": "agora_rtc"}, None, START, RTC),
        case(73, {"name": "agora_rtc", "property": None}, None, START, RTC, note="null"),
        case(74, {"name": "agora_rtc"}, {"agora_rtc": {"channel": "other"}}, START, RTC),
        case(75, {"name": "avatar", "property": {}}, {"avatar": {"channel": "other"}}, START, {"channel": "lobby"}),
        case(
            76,
            {"name": "x", "property": {"params": {"channel": "kept"}}},
            None,
            START,
            {"params": {"channel": "kept"}},
        ),
        *(
            case(77, {"name": "x", "property": {"channel": value}}, None, START, {"channel": "lobby"}, note=note)
            for note, value in {"empty": "", "null": None, "number": 5, "object": {"a": 1}, "env": "${env:Z}"}.items()
        ),
        case(
            78,
            {"name": "rtc_one", "addon": "agora_rtc", "property": {"token": ""}},
            None,
            START,
            {"token": ""},
            note="no-channel",
        ),
        case(
            78,
            {"name": "rtc_two", "addon": "agora_rtc", "property": {"channel": "", "stream_id": 1}},
            None,
            START,
            {"channel": "lobby", "stream_id": 1},
            note="channel",
        ),
    ],
)
def test_injection(node: dict[str, Any], overrides: Any, start: StartParameters, expected: dict[str, Any]) -> None:
    selection = select(frozen(document(node)), "g")
    result = property_of(selection.prepare(start, overrides).for_worker({}, "error"), node["name"])
    assert result == expected
    assert {key: type(value) for key, value in result.items()} == {key: type(v) for key, v in expected.items()}


@pytest.mark.parametrize(
    ("node", "token", "port"),
    [
        case(79, "llm", False, False),
        case(79, "agora_rtc", True, False, note="rtc"),
        case(79, "agora_rtm", True, False, note="rtm"),
        case(79, "http_server", False, True, note="http"),
    ],
)
def test_needs(node: str, token: bool, port: bool) -> None:
    selection = select(document({"name": node}), "g")
    assert (selection.needs_token, selection.needs_port) == (token, port)
    assert nodes_of(select(document({"name": "llm"}), "g").prepare(START).for_worker({}, "error")) == [{"name": "llm"}]


def test_an_injected_text_is_never_a_placeholder() -> None:
    source = document({"name": "agora_rtc"}, {"name": "avatar", "property": {"channel": ""}})
    result = effective(source, None, {"A": "secret"}, start=StartParameters("${env:A}", token="${env:A}"))
    rtc = {"channel": "${env:A}", "remote_stream_id": 0, "stream_id": 0, "token": "${env:A}"}
    assert property_of(result, "agora_rtc") == rtc
    assert property_of(result, "avatar") == {"channel": "${env:A}"}


def test_injection_rows_are_data() -> None:
    table = injection_table(
        [("http_server_python", "listen_port", "port", False), ("agora_rtc", "stream_id", "bot_uid", True)]
    )
    source = document({"name": "http_server_python", "property": {"listen_port": 8002}}, {"name": "agora_rtc"})
    selection = select(source, "g", injections=table)
    assert selection.needs_port
    result = selection.prepare(START).for_worker({}, "error")
    assert property_of(result, "http_server_python") == {"listen_port": 4242}
    assert property_of(result, "agora_rtc") == {**RTC, "stream_id": "9"}
    assert not select(source, "g").needs_port


def test_an_injection_of_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.y=nonsense: allowed is one of channel_name, .*port"):
        injection_table([("x", "y", "nonsense", False)])


def test_the_built_in_table() -> None:
    assert {tuple(row) for row in INJECTIONS} == {
        ("agora_rtc", "channel", "channel_name", False),
        ("agora_rtc", "remote_stream_id", "user_uid", False),
        ("agora_rtc", "stream_id", "bot_uid", False),
        ("agora_rtc", "token", "token", False),
        ("agora_rtm", "channel", "channel_name", False),
        ("agora_rtm", "user_id", "bot_uid", True),
        ("agora_rtm", "token", "token", False),
        ("http_server", "listen_port", "port", False),
    }


def test_nothing_secret_in_a_representation() -> None:
    prepared = select(document({"name": "agora_rtc"}), "g").prepare(
        StartParameters("lobby", token="sec-ret"), {"agora_rtc": {"key": "sec-ret"}}
    )
    assert "sec-ret" not in repr(prepared) + repr(StartParameters("lobby", token="sec-ret"))


# -- options of a graph --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, GraphOptions()),
        ({}, GraphOptions()),
        ({"command": "tman run start -- --property '{property_file}'"},
         GraphOptions(command=("tman", "run", "start", "--", "--property", "{property_file}"))),
        ({"command": ["a b", ""]}, GraphOptions(command=("a b", ""))),
        ({"cwd": "app", "max_workers": 3}, GraphOptions(cwd="app", max_workers=3)),
        ({"handles": ["invoke", "chat", "chat"]}, GraphOptions(handles=("chat", "invoke"))),
        ({"handles": [], "description": "says nothing"}, GraphOptions(handles=(), description="says nothing")),
        ({"structured": True}, GraphOptions(structured=True)),
        ({"limits": {"memory_bytes": 2**30, "cpu_weight": 10_000}},
         GraphOptions(limits={"memory_bytes": 2**30, "cpu_weight": 10_000})),
    ],
)  # fmt: skip
def test_options(value: Any, expected: GraphOptions) -> None:
    source = document({"name": "llm"}, agentd=value)
    selection = select(source, "g")
    assert selection.options == expected
    prepared = selection.prepare(START)
    assert prepared.options == expected
    assert "agentd" not in prepared.for_worker({}, "error")["ten"]["predefined_graphs"][0]
    assert Limits(**selection.options.limits)


@pytest.mark.parametrize(
    ("value", "key", "shown", "allowed"),
    [
        (5, "agentd is", "5", "an object"),
        ({"nice": 1}, "agentd", "'nice'", "command, cwd, limits, isolation, max_workers"),
        ({"command": []}, "agentd.command", "[]", "a command line"),
        ({"command": ""}, "agentd.command", "''", "a command line"),
        ({"command": "a 'b"}, "agentd.command", "a 'b", "No closing quotation"),
        ({"command": ["a", 5]}, "agentd.command", "5", "a list of a program"),
        ({"command": ["a\0"]}, "agentd.command", "a", "without NUL"),
        ({"command": [""]}, "agentd.command", "['']", "a command line"),
        ({"command": None}, "agentd.command", "None", "a command line"),
        ({"cwd": ""}, "agentd.cwd", "''", "folder"),
        ({"cwd": 5}, "agentd.cwd", "5", "folder"),
        ({"max_workers": 0}, "agentd.max_workers", "0", "an integer from 1"),
        ({"handles": "chat"}, "agentd.handles", "'chat'", "a list of chat and invoke"),
        ({"handles": ["sing"]}, "agentd.handles", "['sing']", "a list of chat and invoke"),
        ({"handles": [["chat"]]}, "agentd.handles", "[['chat']]", "a list of chat and invoke"),
        ({"structured": 1}, "agentd.structured", "1", "true or false"),
        ({"description": 7}, "agentd.description", "7", "a text of at most 1000 characters"),
        ({"description": "x" * 1001}, "agentd.description", "'xxx", "a text of at most 1000 characters"),
        ({"max_workers": True}, "agentd.max_workers", "True", "an integer from 1"),
        ({"max_workers": 1.0}, "agentd.max_workers", "1.0", "an integer from 1"),
        ({"limits": []}, "agentd.limits", "[]", "an object with memory_bytes"),
        ({"limits": {"memory": 1}}, "agentd.limits", "'memory'", "memory_bytes"),
        ({"limits": {"memory_bytes": "1G"}}, "agentd.limits.memory_bytes", "'1G'", "an integer from 1"),
        ({"limits": {"cpu_weight": 10_001}}, "agentd.limits.cpu_weight", "10001", "from 1 to 10000"),
        ({"limits": {"processes": 2**63}}, "agentd.limits.processes", str(2**63), "from 1 to"),
    ],
)
def test_options_that_are_refused(value: Any, key: str, shown: str, allowed: str) -> None:
    detail = refused(Cause.PROPERTY_INVALID, select, document(agentd=value), "g")
    for part in ("graph 'g'", key, shown, allowed):
        assert part in detail


def test_the_limits_are_those_of_a_worker() -> None:
    assert set(LIMIT_RANGES) == set(Limits.__dataclass_fields__)


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "position", "reason"),
    [
        (b"", "line 1, column 1", "Expecting value"),
        (b'{"a": 1,\n "b": }', "line 2, column 7", "Expecting value"),
        (b'{"a": 1}\n x', "line 2, column 2", "Extra data"),
        (b'\xef\xbb\xbf{"ten": {}}', "line 1, column 1", "byte-order mark"),
        ('{"ä":\n "é\xff"}'.encode("latin-1"), "line 1, column 3", "byte 0xe4 is not UTF-8"),
        (b'{"a": "\xc3\xa9",\n "b": "\xff"}', "line 2, column 8", "byte 0xff is not UTF-8"),
        (b'{"s": "NaN", "n":\nNaN}', "line 2, column 1", "NaN"),
        (b'{"s": "\\"-Infinity", "n": -Infinity}', "line 1, column 27", "-Infinity"),
        (b'{"a": 1e308,\n "n": [1, 1e400]}', "line 2, column 11", "beyond the range of a double"),
        (b'{"a": -1e999}', "line 1, column 7", "beyond the range of a double"),
        (b'{"n":\n ' + b"7" * 5000 + b"}", "line 2, column 2", "an integer of 5000 digits"),
        (b'{"a": "\\ud83d\\ude00",\n "s": "\\ud800"}', "line 2, column 7", "lone surrogate"),
        (b'{"\\uDC00": 1}', "line 1, column 2", "lone surrogate"),
        (b'{"s": "[[[",\n "d": ' + b"[" * 100 + b"]" * 100 + b"}", "line 2, column 106", "nested over more than 100"),
        (b'{"a":' * 100_000, "line 1, column 501", "nested over more than 100"),
        (b"[" * 100_000, "line 1, column 101", "nested over more than 100"),
        (b'{"a": "\x01"}', "line 1, column 8", "Invalid control character"),
    ],
)
def test_what_is_not_json_is_refused_with_its_position(data: bytes, position: str, reason: str) -> None:
    detail = refused(Cause.PROPERTY_INVALID, parse_document, data, "graphs/x.json")
    assert detail.startswith(f"graphs/x.json, {position}: ")
    assert reason in detail
    assert len(detail) < 200


@pytest.mark.parametrize(
    ("data", "kind"), [(b"[]", "a list"), (b"null", "null"), (b'"x"', "a string"), (b"5", "a number")]
)
def test_a_document_is_an_object(data: bytes, kind: str) -> None:
    assert refused(Cause.PROPERTY_INVALID, parse_document, data) == f"property.json is {kind}; an object is allowed"


@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:\\ud8019eE.-+ntf\n'), max_size=40).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_a_document_or_a_refusal(data: bytes) -> None:
    try:
        source = parse_document(data)
    except Refusal as error:
        assert error.cause is Cause.PROPERTY_INVALID
    else:
        assert parse_document(dump_document(source)) == source


@given(st.recursive(st.just(1), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner)))
def test_depth(value: Any) -> None:
    def depth(item: Any) -> int:
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if children is None else 1 + max(map(depth, children), default=0)

    assert [is_deeper(value, limit) for limit in range(8)] == [depth(value) > limit for limit in range(8)]


# -- the real files ------------------------------------------------------------------------------------------------

REAL = {
    "voice-assistant": (9, 72),
    "demo": (19, 141),
    "voice-assistant-advanced": (5, 43),
    "rtm-transport": (1, 9),
    "websocket-example": (1, 6),
    "legacy-demo": (6, 38),
}


def real(name: str) -> dict[str, Any]:
    return parse_document((TEN / f"{name}.property.json").read_bytes(), name)


@pytest.mark.parametrize("name", REAL)
def test_real_file_round_trip(name: str) -> None:
    data = (TEN / f"{name}.property.json").read_bytes()
    ordered = json.loads(data, object_pairs_hook=list)
    assert json.loads(dump_document(parse_document(data)), object_pairs_hook=list) == ordered


@pytest.mark.parametrize("name", REAL)
def test_real_file_merges_every_graph(name: str) -> None:
    source = real(name)
    cached = frozen(source)
    graphs = list_graphs(cached)
    assert (len(graphs), len([node for graph in nodes_by_graph(source) for node in graph])) == REAL[name]
    root = "_ten" if "_ten" in source else "ten"
    rest = {key: value for key, value in source[root].items() if key != "predefined_graphs"}
    for listing, entry in zip(graphs, source[root]["predefined_graphs"], strict=True):
        assert listing == GraphListing(entry["name"], entry["auto_start"])
        names = [node["name"] for node in entry.get("graph", entry)["nodes"]]
        overrides = {node: {"added": {"by": ["request"]}} for node in names}
        prepared = select(cached, listing.name).prepare(START, overrides)
        assert prepared.warnings == ()
        result = prepared.for_worker({}, "empty")
        (kept,) = result[root]["predefined_graphs"]
        assert {key: value for key, value in result[root].items() if key != "predefined_graphs"} == rest
        assert kept["auto_start"] is True
        assert [node["name"] for node in nodes_of(result)] == names
        assert kept.get("graph", kept).get("connections") == entry.get("graph", entry).get("connections")
        for node in nodes_of(result):
            assert node["property"]["added"] == {"by": ["request"]}
            assert node["property"].get("channel", "lobby") == "lobby"
        assert "${env:" not in json.dumps([node["property"] for node in nodes_of(result)])
        assert dump_document(result)
    assert cached == source


def nodes_by_graph(source: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [
        nodes_of({"ten": {"predefined_graphs": [entry]}})
        for entry in (source.get("ten") or source["_ten"])["predefined_graphs"]
    ]


def test_the_published_example_on_the_legacy_file() -> None:
    prepared = select(real("legacy-demo"), "camera_va_openai_azure").prepare(
        StartParameters("test", user_uid=176573, token="tok"), {"openai_chatgpt": {"model": "gpt-4o"}}
    )
    result = prepared.for_worker({}, "empty")
    assert property_of(result, "openai_chatgpt")["model"] == "gpt-4o"
    rtc = property_of(result, "agora_rtc")
    assert (rtc["channel"], rtc["remote_stream_id"], rtc["stream_id"], rtc["token"]) == ("test", 176573, 0, "tok")
    refused(Cause.PLACEHOLDER_UNRESOLVED, prepared.for_worker, {}, "error")

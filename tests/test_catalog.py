"""supervisor.catalog: the property file on disk, its imports, its edits; and the graphs agentd ships."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor import catalog as module
from supervisor import file_stamp
from supervisor.catalog import MAX_FILE, GraphCatalog
from supervisor.causes import Cause, Refusal
from supervisor.property import GraphListing, GraphOptions, StartParameters

SHIPPED = Path(__file__).parent.parent / "property.json"
START = StartParameters("lobby", port=4242)


def refused(cause: Cause, call: Any, *args: Any) -> str:
    with pytest.raises(Refusal) as caught:
        call(*args)
    assert caught.value.cause is cause
    return caught.value.detail


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def graph_file(path: Path, *names: str) -> None:
    write(path, {"ten": {"predefined_graphs": [{"name": name} for name in names]}})


def importing(path: Path, uri: str) -> None:
    entry = {"name": "g", "graph": {"import_uri": uri}}
    write(path, {"ten": {"predefined_graphs": [entry, {"name": "other"}]}})


def nodes(catalog: GraphCatalog, name: str = "g") -> list[dict[str, Any]]:
    document = catalog.select(name).prepare(START).for_worker({}, "error")
    found: list[dict[str, Any]] = document["ten"]["predefined_graphs"][0]["graph"]["nodes"]
    return found


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file count as settled, without waiting for it."""
    monkeypatch.setattr(file_stamp, "SETTLE_NS", -1_000_000_000)


def names(catalog: GraphCatalog) -> list[str]:
    return [graph.name for graph in catalog.graphs()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "property.json"


@pytest.mark.parametrize(
    ("graphs", "wanted", "expected"),
    [
        (["a", "friday", "b"], None, "friday"),
        (["a", "friday"], "", "friday"),
        (["a", "friday"], "b", "b"),
        (["a", "b", "a"], None, "a"),
        (["", "Friday"], None, "Friday"),
        ([], "a", "a"),
    ],
)
def test_the_graph_that_answers_where_none_is_named(
    path: Path, graphs: list[str], wanted: str | None, expected: str
) -> None:
    graph_file(path, *graphs)
    assert GraphCatalog(path).default(wanted) == expected


@pytest.mark.parametrize("graphs", [[], [""]])
def test_no_graph_that_could_answer(path: Path, graphs: list[str]) -> None:
    graph_file(path, *graphs)
    told = refused(Cause.GRAPH_UNKNOWN, GraphCatalog(path).default, None)
    assert told == "no graph was named, and property.json has none to choose from"


def test_whether_there_is_a_graph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_file(path, "a", "", "b")
    catalog = GraphCatalog(path)
    assert [catalog.has(name) for name in ("a", "b", "", "A", "c")] == [True, True, False, False, False]
    settled(monkeypatch)
    catalog.document()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_read", None)  # from memory
        assert catalog.has("b")
        assert catalog.default(None) == "a"
    graph_file(path, "a", "friday")
    assert (catalog.has("b"), catalog.default(None)) == (False, "friday")
    path.unlink()
    refused(Cause.PROPERTY_UNREADABLE, catalog.has, "a")
    refused(Cause.PROPERTY_UNREADABLE, catalog.default, None)
    assert catalog.default("a") == "a"


def test_an_unchanged_file_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_file(path, "a")
    settled(monkeypatch)
    catalog = GraphCatalog(path)
    assert catalog.document() is catalog.document()


def test_a_file_of_this_moment_is_not_trusted_to_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamp, "SETTLE_NS", 10**18)
    graph_file(path, "a")
    catalog = GraphCatalog(path)
    first = catalog.document()
    assert catalog.document() is not first
    assert catalog.document() == first


@pytest.mark.parametrize("way", ["in_place", "in_place_of_one_size", "replaced", "replaced_with_old_times"])
def test_an_edited_file_is_used_from_the_next_call_on(path: Path, way: str) -> None:
    graph_file(path, "a")
    os.utime(path, ns=(10**18, 10**18))
    catalog = GraphCatalog(path)
    assert names(catalog) == ["a"]
    if way == "in_place":
        graph_file(path, "b", "c")
        assert names(catalog) == ["b", "c"]
        return
    new = path if way == "in_place_of_one_size" else path.with_name("new")
    graph_file(new, "b")
    if way == "replaced_with_old_times":
        os.utime(new, ns=(10**18, 10**18))
    new.replace(path)
    assert names(catalog) == ["b"]


def test_an_edit_that_restores_the_modification_time_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_file(path, "a")
    settled(monkeypatch)
    catalog = GraphCatalog(path)
    assert names(catalog) == ["a"]
    before = path.stat()
    graph_file(path, "b")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the next tick of the file system's clock
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert names(catalog) == ["b"]


def test_rapid_edits_of_one_size_are_never_missed(path: Path) -> None:
    catalog = GraphCatalog(path)
    for number in range(200):
        graph_file(path, f"g{number:03}")
        assert names(catalog) == [f"g{number:03}"]


def test_a_file_that_was_broken_for_a_while(path: Path) -> None:
    graph_file(path, "a")
    catalog = GraphCatalog(path)
    assert names(catalog) == ["a"]
    path.write_bytes(b'{"ten": {\n "pre')
    assert refused(Cause.PROPERTY_INVALID, catalog.document).startswith("property.json, line 2, column 2: ")
    path.unlink()
    assert "No such file" in refused(Cause.PROPERTY_UNREADABLE, catalog.document)
    graph_file(path, "b")
    assert names(catalog) == ["b"]


def test_what_is_not_a_readable_file(path: Path) -> None:
    catalog = GraphCatalog(path)
    refused(Cause.PROPERTY_UNREADABLE, catalog.select, "g")
    path.mkdir()
    refused(Cause.PROPERTY_UNREADABLE, catalog.graphs)
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in refused(Cause.PROPERTY_UNREADABLE, catalog.graphs)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    assert str(MAX_FILE) in refused(Cause.PROPERTY_UNREADABLE, catalog.graphs)


def test_no_list_of_graphs(path: Path) -> None:
    write(path, {"ten": {}})
    catalog = GraphCatalog(path)
    assert catalog.document() == {"ten": {}}
    refused(Cause.PROPERTY_INVALID, catalog.graphs)
    refused(Cause.PROPERTY_INVALID, catalog.select, "g")


def test_an_import_is_read_put_in_place_and_followed(path: Path) -> None:
    importing(path, "graphs/a.json")
    imported = path.parent / "graphs" / "a.json"
    write(imported, {"nodes": [{"name": "one", "property": {"channel": ""}}]})
    catalog = GraphCatalog(path)
    assert nodes(catalog) == [{"name": "one", "property": {"channel": "lobby"}}]
    write(imported, {"nodes": [{"name": "two"}]})
    assert nodes(catalog) == [{"name": "two"}]


def test_only_the_selected_graph_s_import_is_read(path: Path) -> None:
    importing(path, "graphs/absent.json")
    catalog = GraphCatalog(path)
    assert names(catalog) == ["g", "other"]
    assert catalog.select("other")
    assert "graphs/absent.json" in refused(Cause.PROPERTY_UNREADABLE, catalog.select, "g")
    write(path.parent / "graphs" / "absent.json", [1])
    assert "graphs/absent.json is a list" in refused(Cause.PROPERTY_INVALID, catalog.select, "g")


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("../outside.json", id="case-9-parent"),
        pytest.param("graphs/../../outside.json", id="case-9-parent-later"),
        pytest.param("/etc/hostname", id="case-9-absolute"),
        pytest.param("//etc/hostname", id="case-9-slashes"),
        pytest.param("link.json", id="case-9-link"),
        pytest.param("loop", id="case-9-loop"),
        pytest.param("a\0b", id="case-9-nul"),
    ],
)
def test_a_path_that_leaves_the_app_folder(tmp_path: Path, uri: str) -> None:
    write(tmp_path / "outside.json", {"nodes": []})
    app = tmp_path / "app"
    importing(app / "property.json", uri)
    (app / "graphs").mkdir()
    (app / "link.json").symlink_to(tmp_path / "outside.json")
    (app / "loop").symlink_to(app / "loop")
    refusals = {Cause.PROPERTY_INVALID, Cause.PROPERTY_UNREADABLE} if uri == "loop" else {Cause.PROPERTY_INVALID}
    with pytest.raises(Refusal) as caught:
        GraphCatalog(app / "property.json").select("g")
    assert caught.value.cause in refusals


def test_another_app_folder(tmp_path: Path) -> None:
    importing(tmp_path / "etc" / "property.json", "graphs/a.json")
    (tmp_path / "real" / "graphs").mkdir(parents=True)
    (tmp_path / "app").symlink_to(tmp_path / "real")
    write(tmp_path / "real" / "graphs" / "a.json", {"nodes": [{"name": "one"}]})
    assert nodes(GraphCatalog(tmp_path / "etc" / "property.json", app_dir=tmp_path / "app")) == [{"name": "one"}]


def test_rows_of_injections(path: Path) -> None:
    importing(path, "a.json")
    write(path.parent / "a.json", {"nodes": [{"name": "web"}]})
    catalog = GraphCatalog(path, injections=[("web", "listen_port", "port", False)])
    assert nodes(catalog) == [{"name": "web", "property": {"listen_port": 4242}}]
    with pytest.raises(ValueError, match="nonsense"):
        GraphCatalog(path, injections=[("web", "x", "nonsense", False)])


def test_the_cached_document_is_never_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    catalog = GraphCatalog(SHIPPED)
    cached = catalog.document()
    before = json.dumps(cached)
    overrides = {"openai_chatgpt": {"model": "x", "new": {"a": 1}}, "message_collector": {"b": 2}}
    for graph in catalog.graphs():
        results = [catalog.select(graph.name).prepare(START, changes) for changes in (overrides, None)]
        first, second = (result.for_worker({}, "error") for result in results)
        first.clear()
        assert "new" not in json.dumps(second)
    assert catalog.document() is cached
    assert json.dumps(cached) == before


# -- the graphs agentd ships ---------------------------------------------------------------------------------------


def test_the_shipped_graphs_are_listed() -> None:
    assert GraphCatalog(SHIPPED).graphs() == [
        GraphListing(name, auto_start=True)
        for name in ("camera_va_openai_azure", "friday", "demo", "echo", "meeting-room", "meeting_room")
    ]


def test_what_the_shipped_agents_handle() -> None:
    catalog = GraphCatalog(SHIPPED)
    handles = {graph.name: options.handles for graph in catalog.graphs() if (options := catalog.options(graph.name))}
    assert handles == {
        "camera_va_openai_azure": ("chat",),
        "friday": ("chat",),
        "demo": ("chat",),
        "echo": ("chat", "invoke"),
        "meeting-room": ("chat",),
        "meeting_room": None,
    }
    assert catalog.options("nobody") is None
    assert catalog.options("") is None


def test_a_graph_with_bad_options_harms_no_other(tmp_path: Path) -> None:
    good, bad = {"name": "good", "graph": {}}, {"name": "bad", "graph": {}, "agentd": {"handles": 7}}
    path = tmp_path / "property.json"
    path.write_text(json.dumps({"ten": {"predefined_graphs": [good, bad]}}))
    catalog = GraphCatalog(path)
    assert catalog.options("good") == GraphOptions()
    with pytest.raises(Refusal, match="graph 'bad'"):
        catalog.options("bad")


@pytest.mark.parametrize(
    ("graph", "agent"),
    [
        ("camera_va_openai_azure", "openai_chatgpt"),
        ("friday", "friday"),
        ("demo", "friday"),
        ("echo", "echo"),
        ("meeting-room", "meeting_room"),
        ("meeting_room", "meeting_room"),
    ],
)
def test_the_shipped_graphs_need_no_key_and_no_account(graph: str, agent: str) -> None:
    selection = GraphCatalog(SHIPPED).select(graph)
    assert not selection.needs_token
    assert not selection.needs_port
    document = selection.prepare(START).for_worker({}, "error")
    entry = document["ten"]["predefined_graphs"][0]
    assert [(node["name"], node["addon"]) for node in entry["graph"]["nodes"]] == [
        (agent, agent),
        ("message_collector", "message_collector"),
    ]
    assert entry["graph"]["connections"] == [
        {"extension": agent, "data": [{"name": "text_data", "dest": [{"extension": "message_collector"}]}]}
    ]


def test_the_shipped_graph_of_the_published_example() -> None:
    prepared = GraphCatalog(SHIPPED).select("camera_va_openai_azure").prepare(
        StartParameters("test", user_uid=176573), {"openai_chatgpt": {"model": "gpt-4o"}}
    )  # fmt: skip
    document = prepared.for_worker({"OPENAI_API_KEY": "k"}, "error")
    values = document["ten"]["predefined_graphs"][0]["graph"]["nodes"][0]["property"]
    assert values["model"] == "gpt-4o"
    assert values["api_key"] == "k"
    assert set(values) == {
        "model", "base_url", "api_key", "prompt", "greeting", "max_tokens", "temperature", "max_memory_length"
    }  # fmt: skip

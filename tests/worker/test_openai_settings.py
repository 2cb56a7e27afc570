"""The properties of a model's node, and a turn's options."""

from typing import Any

import pytest

from worker.addons.openai_settings import ChatProperties, OptionError, parameters
from worker.agent import PropertyError


def tool(name: str, **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}


DEFAULTS = {
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-4o",
    "prompt": "",
    "greeting": "",
    "max_tokens": 512,
    "temperature": 0.7,
    "top_p": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "tools": [],
    "max_tool_rounds": 8,
    "max_memory_length": 10,
    "allow_model_override": False,
    "connect_seconds": 10.0,
    "first_token_seconds": 30.0,
    "idle_seconds": 60.0,
    "request_timeout": 300.0,
    "retries": 2,
}


@pytest.mark.parametrize(
    ("properties", "changed"),
    [
        ({}, {}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini"}),
        ({"api_key": "sk-1", "proxy_url": "http://u:p@x"}, {}),  # not shown
        ({"base_url": "", "api_key": "", "max_tokens": "", "top_p": None}, {}),  # placeholders without a value
        ({"max_tokens": "64", "temperature": "0"}, {"max_tokens": 64, "temperature": 0.0}),  # values of placeholders
        ({"base_url": "http://u:p@localhost:1234/v1?key=x#y"}, {"base_url": "http://localhost:1234/v1"}),
        ({"top_p": 1, "max_memory_length": 0}, {"top_p": 1.0, "max_memory_length": 0}),
        ({"frequency_penalty": 0.9, "presence_penalty": -2}, {"frequency_penalty": 0.9, "presence_penalty": -2.0}),
        ({"tools": [tool("a", description="d"), tool("b")]}, {"tools": ["a", "b"]}),
    ],
)
def test_effective_properties_are_shown_without_secrets(properties: Any, changed: Any) -> None:
    assert ChatProperties.parse(properties).public() == DEFAULTS | changed


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"max_tokens": "lots"}, "max_tokens: .*integer.*, not 'lots'"),
        ({"max_tokens": 0}, "max_tokens: .*greater than or equal to 1, not 0"),
        ({"temperature": 3}, "temperature: .*less than or equal to 2, not 3"),
        ({"top_p": 0}, "top_p: .*greater than 0, not 0"),
        ({"presence_penalty": -3}, "presence_penalty: .*greater than or equal to -2, not -3"),
        ({"model": ["x"]}, "model: Input should be a valid string$"),
        ({"base_url": "localhost"}, "base_url: .*http or https URL with a host, not 'localhost'"),
        ({"base_url": "ftp://x/v1"}, "base_url: .*http or https URL with a host"),
        ({"model": 5, "max_tokens": -1}, "model: .*; max_tokens: "),
        ({"retries": 11}, "retries: .*less than or equal to 10, not 11"),
        ({"first_token_seconds": 0}, "first_token_seconds: .*greater than 0, not 0"),
        ({"max_tool_rounds": 65}, "max_tool_rounds: .*less than or equal to 64, not 65"),
        ({"tools": ["search"]}, r"tools\.0: "),
        ({"tools": [{"type": "web_search"}]}, r"tools\.0\.type: .*'function'"),
        ({"tools": [tool("a b")]}, r"tools\.0\.function\.name: String should match pattern"),
        ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools: .*defined more than once: a"),
    ],
)
def test_what_is_wrong_is_named(properties: Any, told: Any) -> None:
    with pytest.raises(PropertyError, match=told):
        ChatProperties.parse(properties)


@pytest.mark.parametrize("key", ["topsecret\x00", "top secret", "töpsecret", "topsecret\nx"])
def test_a_key_that_fits_no_header_is_refused_and_not_told(key: str) -> None:
    with pytest.raises(PropertyError, match=r"api_key: .*printable ASCII characters without spaces$") as caught:
        ChatProperties.parse({"api_key": key})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("given", "key"), [("sk-1\n", "sk-1"), ("  sk-1 ", "sk-1"), (" \n", None), ("", None)])
def test_a_key_is_trimmed(given: str, key: str | None) -> None:
    found = ChatProperties.parse({"api_key": given}).api_key
    assert (found.get_secret_value() if found else None) == key


@pytest.mark.parametrize(
    ("base_url", "needs"),
    [
        ("", True),
        ("https://api.openai.com/v1/", True),
        ("https://API.openai.com:443", True),
        ("http://localhost:11434/v1", False),
        ("https://api.openai.com.evil.example/v1", False),
    ],
)
def test_who_needs_a_key(base_url: str, needs: bool) -> None:
    assert ChatProperties.parse({"base_url": base_url}).needs_key is needs


def test_what_is_secret() -> None:
    properties = ChatProperties.parse({"api_key": "sk-1", "base_url": "http://u:pass@h/v1?code=abc&x=1#frag"})
    assert set(properties.secrets) == {"sk-1", "pass", "dTpwYXNz", "code=abc&x=1", "abc", "1", "frag"}
    assert properties.place == "http://h/v1"


BASE = {"model": "gpt-4o", "temperature": 0.7, "max_tokens": 512}


@pytest.mark.parametrize(
    ("properties", "options", "changed"),
    [
        ({}, {}, {}),
        ({"top_p": 0.5, "presence_penalty": 1}, {}, {"top_p": 0.5, "presence_penalty": 1.0}),
        ({"top_p": 0.5}, {"top_p": 0.25, "temperature": 0}, {"top_p": 0.25, "temperature": 0.0}),
        ({}, {"max_tokens": 7}, {"max_tokens": 7}),
        ({}, {"max_output_tokens": 7}, {"max_tokens": 7}),
        ({}, {"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({}, {"max_tokens": 7, "max_output_tokens": 9}, {"max_tokens": 7}),
        ({}, {"max_tokens": None, "stop": None}, {}),
        ({}, {"stop": "x", "seed": 5}, {"stop": "x", "seed": 5}),
        ({}, {"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        (
            {},
            {"tool_choice": "none", "parallel_tool_calls": False},
            {"tool_choice": "none", "parallel_tool_calls": False},
        ),
        ({}, {"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({}, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({}, {"model": "other"}, {}),
        ({"allow_model_override": True}, {"model": "other"}, {"model": "other"}),
        ({}, {"n": 3, "stream": False, "messages": [], "api_key": "x", "base_url": "http://x"}, {}),  # not ours
    ],
)
def test_options_go_before_properties(properties: Any, options: Any, changed: Any) -> None:
    assert parameters(ChatProperties.parse(properties), options) == (BASE | changed, ())


def test_the_client_may_bring_its_tools() -> None:
    properties = ChatProperties.parse({"tools": [tool("a")]})
    assert [t.function.name for t in parameters(properties, {})[1]] == ["a"]
    brought = parameters(properties, {"tools": [tool("b", strict=True)]})[1]
    assert [t.model_dump() for t in brought] == [tool("b", strict=True)]
    assert parameters(properties, {"tools": []})[1] == ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 3}, "options: temperature: .*less than or equal to 2, not 3"),
        ({"max_output_tokens": 0}, "options: max_output_tokens: .*greater than or equal to 1, not 0"),
        ({"stop": ["x"] * 17}, "options: stop.*at most 16 items"),
        ({"seed": "x"}, "options: seed: .*integer.*, not 'x'"),
        ({"tools": [{"type": "function"}]}, r"options: tools\.0\.function: Field required"),
    ],
)
def test_a_wrong_option_is_named(options: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        parameters(ChatProperties(), options)

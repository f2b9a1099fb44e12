"""Model specs: both forms, money, seconds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from inferloom.core.errors import InferloomError, SetupError, SpecError, UnknownNameError
from inferloom.core.types import Usage
from inferloom.models.backends import BACKENDS
from inferloom.models.spec import SCHEMES, ModelSpec, Price, load_prices


def test_short_and_long_form_are_the_same_model() -> None:
    assert ModelSpec.parse("pocket:small") == ModelSpec.parse({"model": "pocket:small"})
    assert ModelSpec.parse("pocket:small").to_yaml() == "pocket:small"
    spec = ModelSpec.parse("openai:org/name:tag")
    assert (spec.scheme, spec.rest) == ("openai", "org/name:tag")


def test_it_is_a_field_of_other_models_too() -> None:
    class Holder(BaseModel):
        models: dict[str, ModelSpec]

    held = Holder.model_validate({"models": {"a": "pocket:small", "b": {"model": "openai:x", "timeout": 3}}})
    assert held.models["a"].concurrency == 256
    assert held.models["b"].timeout == 3


def test_concurrency_defaults_to_what_the_scheme_can_batch() -> None:
    assert [ModelSpec.parse(f"{scheme}:x").concurrency for scheme in SCHEMES] == [8, 8, 256, 256, 64, 256]
    assert ModelSpec.parse({"model": "pocket:small", "concurrency": 2}).concurrency == 2


specs = st.fixed_dictionaries(
    {"model": st.sampled_from(["pocket:small", "openai:gpt", "scripted:echo"])},
    optional={
        "base_url": st.sampled_from(["http://127.0.0.1:8000/v1", "https://host/v1/"]),
        "revision": st.text("ab1", max_size=3),
        "price": st.fixed_dictionaries({"input": st.floats(0, 100)}, optional={"cached": st.floats(0, 1)}),
        "rates": st.fixed_dictionaries({}, optional={"decode": st.floats(1, 1e6)}),
        "concurrency": st.sampled_from([1, 8, 256]),
        "timeout": st.floats(0.1, 1000),
        "retries": st.integers(1, 9),
        "key": st.just("MY_KEY"),
        "reject": st.lists(st.sampled_from(["seed", "n"]), unique=True),
        "extra": st.just({"top_k": 5}),
        "capabilities": st.just({"n": False}),
    },
)
serves = st.fixed_dictionaries(
    {"model": st.sampled_from(["pocket:large", "/a/folder", "org/name"])},
    optional={
        "args": st.just({"dtype": "float32", "enforce-eager": True, "stop": ["a", 1]}),
        "env": st.dictionaries(st.sampled_from(["A_B", "C"]), st.one_of(st.integers(0, 9), st.just("x"))),
        "log": st.just("a.log"),
        "restart": st.booleans(),
        "wait": st.floats(1, 900),
    },
)


@given(specs)
def test_yaml_round_trip(value: dict[str, object]) -> None:
    spec = ModelSpec.parse(value)
    written = spec.to_yaml()
    assert ModelSpec.parse(written) == spec
    assert ModelSpec.parse(written).to_yaml() == written


@given(serves, st.sampled_from([{}, {"python": "/usr/bin/python3"}, {"command": ["llama-server", "-v"]}]))
def test_a_server_to_start_round_trips(serve: dict[str, object], program: dict[str, object]) -> None:
    given = {"model": "openai:x", "prefix": "completions", "tokenizer": "pocket:large", "serve": {**serve, **program}}
    spec = ModelSpec.parse(given)
    written = spec.to_yaml()
    assert ModelSpec.parse(written) == spec
    assert ModelSpec.parse(written).to_yaml() == written
    assert set(written["serve"]) <= {*serve, *program}  # type: ignore[arg-type,index]  # a mapping: it has a server


SERVE = {"model": "pocket:large"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"serve": SERVE, "base_url": "http://h/v1"}, "`base_url` and `serve` exclude each other"),
        ({"model": "pocket:small", "serve": SERVE}, "`serve` is for `openai:` models only, not for `pocket:small`"),
        ({"model": "vllm:x", "prefix": "completions", "tokenizer": "a"}, "`tokenizer` is for `openai:` models only"),
        ({"tokenizer": "pocket:large"}, "`tokenizer` needs `prefix: completions`"),
        ({"serve": {}}, "p.yaml:3: serve.model: Field required"),
        ({"serve": {**SERVE, "arg": {}}}, "unknown field `arg`; did you mean `args`?"),
        ({"serve": {**SERVE, "args": {"port": 3}}}, "`port` in `args` is set by inferloom"),
        ({"serve": {**SERVE, "args": {"served_model_name": "x"}}}, "is set by inferloom"),
        ({"serve": {**SERVE, "args": {"--dtype": "x"}}}, "the name of an argument without its dashes"),
        ({"serve": {**SERVE, "args": {"dtype": {"a": 1}}}}, "a text, a number, true, false or a list of those"),
        ({"serve": {**SERVE, "env": {"A B": "x"}}}, "must be the name of an environment variable"),
        ({"serve": {**SERVE, "env": {"A": True}}}, "`serve.env.A` should be a valid string, not True"),
        ({"serve": {**SERVE, "python": "p", "command": ["c"]}}, "`python` and `command` exclude each other"),
        ({"serve": {**SERVE, "wait": 0}}, "`serve.wait` should be greater than 0, not 0"),
    ],
)
def test_mistakes_about_servers_and_tokenizers(value: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.parse({"model": "openai:x", **value}, where="p.yaml:3")
    assert said in str(caught.value)
    assert str(caught.value).startswith("p.yaml:3")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("small", "p.yaml:3: model `small` must be `scheme:name`"),
        ("pocket", "did you mean `pocket:...`?"),
        ({"model": "openai:x", "prise": 1}, "p.yaml:3: unknown field `prise`; did you mean `price`?"),
        ({"model": "openai:x", "price": {"inputs": 1}}, "unknown field `inputs`; did you mean `input`?"),
        ({"model": "openai:x", "timeout": 0}, "p.yaml:3: `timeout` should be greater than 0, not 0"),
        ({"model": "openai:x", "price": {"input": -1}}, "`price.input` should be greater than or equal to 0, not -1"),
        ({"model": "openai:x", "base_url": "localhost:8000"}, "must be a URL that starts with http"),
        ({"model": "openai:x", "capabilities": {"prefix": True}}, "needs `prefix: completions`"),
        ({}, "p.yaml:3: model: Field required"),
        (3, "p.yaml:3: a model must be `scheme:name` or a mapping with `model`, not int"),
    ],
)
def test_mistakes_name_place_and_remedy(value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.parse(value, where="p.yaml:3")
    assert said in str(caught.value)
    assert str(caught.value).startswith("p.yaml:3")


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"p.yaml:3: unknown model scheme `opnai`; did you mean `openai`"):
        ModelSpec.parse("opnai:gpt", where="p.yaml:3")
    assert set(SCHEMES) <= set(BACKENDS.names())


SECRET = "sk-proj-abcdef0123456789"


@pytest.mark.parametrize(
    "value",
    [
        {"model": "openai:x", "key": SECRET},
        {"model": "openai:x", "key": "a1b2c3d4e5f6a7b8c9d0e1f2a3b4"},
        {"model": "openai:x", "base_url": f"https://user:{SECRET}@host/v1"},
        {"model": "openai:x", "extra": {"api_key": SECRET}},
        {"model": "openai:x", "api_key": SECRET},
        {"model": "openai:x", "timeout": SECRET},
        {"model": "openai:x", "serve": {"model": "m", "env": {"VLLM_API_KEY": SECRET}}},
        {"model": "openai:x", "serve": {"model": "m", "env": {"HF_TOKEN": SECRET}}},
        {"model": "openai:x", "serve": {"model": "m", "env": {"HARMLESS": SECRET}}},
        {"model": "openai:x", "serve": {"model": "m", "args": {"api-key": SECRET}}},
        {"model": "openai:x", "serve": {"model": "m", "command": ["x", f"--api-key={SECRET}"]}},
        {"model": "openai:x", "serve": {"model": "m", "command": SECRET}},
    ],
)
def test_a_key_in_a_file_is_refused_and_not_repeated(value: dict[str, object]) -> None:
    with pytest.raises(InferloomError) as caught:
        ModelSpec.parse(value)
    assert "a1b2" not in str(caught.value)
    assert SECRET not in str(caught.value)
    # The same inside another pydantic model, whose error could show its input.
    with pytest.raises((ValidationError, SetupError)) as direct:
        ModelSpec.model_validate(value)
    assert SECRET not in str(direct.value)


def test_money_and_nominal_seconds() -> None:
    spec = ModelSpec.parse(
        {
            "model": "openai:x",
            "price": {"input": 2, "cached": 0.5, "output": 8},
            "rates": {"prefill": 1000, "decode": 50, "per_call": 0.25},
        }
    )
    usage = Usage(calls=2, prompt_tokens=3000, cached_tokens=1000, completion_tokens=500)
    assert spec.usd(usage) == pytest.approx((2000 * 2 + 1000 * 0.5 + 500 * 8) / 1e6)
    assert spec.seconds(usage) == pytest.approx(0.5 + 2 + 498 / 50)  # reading makes the first token of each call
    assert ModelSpec.parse("openai:x").usd(usage) == 0
    dear = ModelSpec.parse({"model": "openai:x", "price": {"input": 2}})
    assert dear.usd(usage) == pytest.approx(3000 * 2 / 1e6)


def test_prices_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text("gpt-4o-mini: {input: 0.15, cached: 0.075, output: 0.6}\nopenai:other: {input: 1}\n")
    prices = load_prices(table)
    assert prices["gpt-4o-mini"] == Price(input=0.15, cached=0.075, output=0.6)
    assert ModelSpec.parse("openai:gpt-4o-mini").with_prices(prices).price == prices["gpt-4o-mini"]
    assert ModelSpec.parse("openai:other").with_prices(prices).price == Price(input=1)
    own = ModelSpec.parse({"model": "openai:other", "price": {"input": 9}})
    assert own.with_prices(prices) == own
    assert ModelSpec.parse("openai:unlisted").with_prices(prices).price is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {input: 1}\nb: {outptu: 1}\n", r"prices.yaml:2: b: unknown field `outptu`; did you mean `output`\?"),
        ("a: {input: -1}\n", r"prices.yaml:1: a: `input` should be greater than or equal to 0, not -1"),
        ("a: 3\n", "prices.yaml:1: a: a price must be a mapping"),
        ("- a\n", "prices.yaml:1: a price table must be a mapping"),
        ("a: {input: 1\n", "prices.yaml:2: not YAML"),
    ],
)
def test_mistakes_in_a_price_table(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(text)
    with pytest.raises(SpecError, match=said):
        load_prices(table)


def test_a_missing_price_table(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none.yaml: cannot read the price table: No such file"):
        load_prices(tmp_path / "none.yaml")

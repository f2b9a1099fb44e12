"""`inferloom init`: a file of models, a pipeline and a search job that run, from a few answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.output import err, print_json, print_text
from inferloom.cli.scaffold import Answers, DataAnswers, ModelAnswers, guess_field, peek_fields, write_project
from inferloom.core.errors import SetupError

_NAMED = "[NAME=]"


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where the files go.")] = Path(),
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME=SPEC", help="A model, e.g. small=openai:gpt-4o-mini; may be repeated."),
    ] = None,
    base_url: Annotated[
        list[str] | None, typer.Option("--base-url", metavar=f"{_NAMED}URL", help="Where the endpoint is, up to /v1.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar=f"{_NAMED}VARIABLE", help="Environment variable that holds the key."),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar=f"{_NAMED}INPUT/OUTPUT", help="US dollars per million tokens, e.g. 0.15/0.6."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE|pocket", help="A .jsonl or .csv file, or the made tasks.")
    ] = None,
    question: Annotated[str | None, typer.Option("--question", metavar="FIELD", help="The file's question.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", metavar="FIELD", help="The file's right answer.")] = None,
    grader: Annotated[
        str | None, typer.Option("--grader", metavar="NAME", help="exact, numeric, contains, choice, ...")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; what is not given is guessed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Write models.yaml, pipeline.yaml and search.yaml."""
    asks = not yes and not json and sys.stdin.isatty()
    models = _models(model or [], base_url or [], key or [], price or [])
    if asks and not models:
        models = _ask_models()
    chosen = DataAnswers(file=None if data == "pocket" else data, question=question, answer=answer, grader=grader)
    if asks and data is None:
        chosen = _ask_data(chosen)
    written = write_project(folder, Answers(models=models, data=chosen), force=force)
    following = [
        f"inferloom models check {written.models[0]} --models {written.files[0]}",
        f"inferloom plan {written.files[1]}",
        f"inferloom search {written.files[2]} --name first",
    ]
    if json:
        print_json({"files": [str(path) for path in written.files], "items": written.items, "next": following})
        return
    for path in written.files:
        print_text(f"wrote {path}")
    print_text(f"the data set has {written.items:,} items")
    print_text("next:\n  " + "\n  ".join(following))


def _models(
    model: Sequence[str], base_url: Sequence[str], key: Sequence[str], price: Sequence[str]
) -> list[ModelAnswers]:
    """The models that the options name, each option matched to its model."""
    specs: dict[str, str] = {}
    for text in model:
        name, equals, spec = text.partition("=")
        if not equals:
            name, spec = f"model{len(specs) + 1}", text
        if not name or name in specs:
            raise SetupError(f"`{text}` must be NAME=SPEC, each name once", where="init --model")
        specs[name] = spec
    options = {"base-url": base_url, "key": key, "price": price}
    by_model: dict[str, dict[str, str]] = {name: {} for name in specs}
    for option, values in options.items():
        if values and not specs:
            raise SetupError(f"`--{option}` goes with `--model`", where=f"init --{option}")
        for value in values:
            name, equals, rest = value.partition("=")
            targets = [name] if equals and name in specs else list(specs)
            for target in targets:
                by_model[target][option] = rest if targets == [name] and equals else value
    return [
        ModelAnswers(
            name=name,
            spec=spec,
            base_url=by_model[name].get("base-url"),
            key=by_model[name].get("key"),
            price=_price(by_model[name].get("price")),
        )
        for name, spec in specs.items()
    ]


def _price(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    first, slash, second = text.partition("/")
    try:
        prices = float(first), float(second if slash else first)
    except ValueError:
        prices = (-1.0, -1.0)
    if not (0 <= prices[0] < float("inf") and 0 <= prices[1] < float("inf")):
        raise SetupError(
            f"the price is `{text}`; it must be INPUT/OUTPUT in US dollars per million tokens, such as 0.15/0.6",
            where="init --price",
        )
    return prices


def _ask_models() -> list[ModelAnswers]:
    console = err()
    console.print("Models: `pocket:small` comes along; `openai:NAME` is any OpenAI-compatible endpoint.", style="dim")
    found: list[ModelAnswers] = []
    for name, default in (("small", "pocket:small"), ("large", "pocket:large")):
        spec = _prompt(f"{name} model (- for none)" if found else f"{name} model", default)
        if spec == "-" and found:
            break
        base_url = key = price = None
        if spec.startswith("openai:"):
            base_url = _prompt("  its URL, up to /v1 (empty: api.openai.com)", "") or None
            key = _prompt("  environment variable with its key (empty: the default)", "") or None
            price = _price(_prompt("  price, input/output in US dollars per million tokens", "0/0"))
        found.append(ModelAnswers(name=name, spec=spec, base_url=base_url, key=key, price=price))
    return found


def _ask_data(given: DataAnswers) -> DataAnswers:
    file = _prompt("data file, .jsonl or .csv (pocket: tasks that are made)", "pocket")
    if file == "pocket":
        return given
    there = peek_fields(Path(file))
    err().print(f"  its fields: {', '.join(there)}", style="dim")
    return DataAnswers(
        file=file,
        question=given.question or _prompt("  field of the question", guess_field("question", there) or ""),
        answer=given.answer or _prompt("  field of the right answer", guess_field("answer", there) or ""),
        grader=given.grader or _prompt("  grader (empty: by the answers)", "") or None,
    )


def _prompt(text: str, default: str) -> str:
    return str(typer.prompt(text, default=default, err=True, show_default=bool(default))).strip()

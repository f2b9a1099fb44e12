"""The files that `init` writes. All of them are checked by loading them before the first one is put in its place."""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inferloom.core.answers import parse_number
from inferloom.core.errors import DataError, SetupError, UserError

if TYPE_CHECKING:
    from inferloom.core.types import Json

FILES = ("models.yaml", "pipeline.yaml", "search.yaml")
_GUESSES = {
    "question": ("question", "prompt", "problem", "query", "input", "text"),
    "answer": ("answer", "target", "solution", "output", "label", "expected", "gold"),
}
_HEADS = (
    "# Models by name; pipelines read them by `models: models.yaml`. A key never stands here, only its variable.\n",
    "# A pipeline: `inferloom plan pipeline.yaml` predicts its cost, `inferloom run pipeline.yaml QUESTION` asks it.\n",
    "# A search job: `inferloom search search.yaml --name NAME`. The space is a pipeline with holes.\n",
)
_SEARCH = """\
{head}data: {data}
objectives: [quality, tokens]
trials: 16
batch: 4
{limit}space:
  models: {models}
  steps:
    - sample: {{model: {model}, n: {{choice: [1, 2, 4, 8]}}, temperature: {{choice: [0.5, 0.8, 1.0]}}}}
    - optional: {{score: {{model: {judge}}}}}
    - choice: [vote, {{vote: {{weight: judge}}}}, {{best: {{by: judge}}}}]
"""
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswers:
    """One model."""

    name: str
    spec: str
    base_url: str | None = None
    key: str | None = None
    price: tuple[float, float] | None = None
    """Input and output, US dollars per million tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAnswers:
    """The data set; None for what is to be guessed, and for the file where tasks are made."""

    file: str | None = None
    question: str | None = None
    answer: str | None = None
    grader: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All that `init` has to know."""

    models: Sequence[ModelAnswers] = ()
    data: DataAnswers = field(default_factory=DataAnswers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written."""

    files: list[Path]
    models: list[str]
    items: int


def write_project(folder: Path, answers: Answers, *, force: bool = False) -> Written:
    """Write the three files into a folder, made where it is missing.

    Raises:
        SetupError: A file is there already, or the folder cannot be written to.
        UserError: What the answers say is wrong: a model, the data file, a field. Nothing is written then.
    """
    targets = [folder / name for name in FILES]
    there = [str(target) for target in targets if target.exists()]
    if there and not force:
        raise SetupError(
            f"{', '.join(there)} {'exists' if len(there) == 1 else 'exist'} already; --force replaces what is there",
            where="init",
        )
    models = answers.models or [
        ModelAnswers(name="small", spec="pocket:small"),
        ModelAnswers(name="large", spec="pocket:large"),
    ]
    data = _complete(answers.data)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".init-") as name:
            draft = Path(name)
            _write(draft, _texts(models, data, draft))
            items = _check(draft)
            _write(draft, _texts(models, data, folder))
            for target in targets:
                (draft / target.name).replace(target)
    except OSError as error:
        raise SetupError(f"cannot write here: {error.strerror or error}", where=str(folder)) from None
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    return Written(files=targets, models=[model.name for model in models], items=items)


def peek_fields(path: Path) -> list[str]:
    """The fields of a data file's first row.

    Raises:
        DataError: There is no such file or it has no row that can be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                return [cell.strip() for cell in next(csv.reader(file), [])]
            first = next((line for line in file if line.strip()), "{}")
            row = json.loads(first)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except (ValueError, csv.Error):
        raise DataError("its first row cannot be read", where=f"{path}:1") from None
    return list(row) if isinstance(row, dict) else []


def guess_field(kind: str, there: Sequence[str]) -> str | None:
    """The field that is most likely the question or the answer, by its name."""
    lowered = {name.lower(): name for name in there}
    return next((lowered[guess] for guess in _GUESSES[kind] if guess in lowered), None)


def _complete(data: DataAnswers) -> DataAnswers:
    """The answers with what was left open guessed from the file."""
    if data.file is None:
        stray = next((name for name in ("question", "answer") if getattr(data, name)), None)
        if stray:
            raise SetupError(
                f"`--{stray}` names a field of a file; give the file with `--data`", where=f"init --{stray}"
            )
        return data
    there = peek_fields(Path(data.file))
    question = data.question or guess_field("question", there) or "question"
    answer = data.answer or guess_field("answer", there) or "answer"
    return DataAnswers(
        file=data.file,
        question=question,
        answer=answer,
        grader=data.grader or _guess_grader(data.file, question, answer),
    )


def _guess_grader(file: str, question: str, answer: str) -> str:
    """`numeric` where every right answer is a number, else `exact`."""
    from inferloom.evaluation.data import DataSpec, load_items

    items = load_items(DataSpec(file=file, fields={"question": question, "answer": answer}, grader="exact")).items
    return "numeric" if all(parse_number(item.answer) is not None for item in items) else "exact"


def _texts(models: Sequence[ModelAnswers], data: DataAnswers, base: Path) -> list[str]:
    """The three files; paths in them are relative to `base`."""
    names: list[Json] = [model.name for model in models]
    judge = _flow(names[-1])
    priced = any(model.price and any(model.price) for model in models)
    return [
        _HEADS[0] + "".join(f"{_flow(model.name)}: {_flow(_model(model))}\n" for model in models),
        f"{_HEADS[1]}models: {FILES[0]}\nsteps:\n  - sample: {{model: {_flow(names[0])}, n: 5}}\n  - vote\n",
        _SEARCH.format(
            head=_HEADS[2],
            data=_flow(_data(data, base)),
            limit="max_billed: {usd: 5.0}    # the most that the search may really spend\n" if priced else "",
            models=FILES[0],
            model=_hole(names),
            judge=judge,
        ),
    ]


def _hole(options: list[Json]) -> str:
    return _flow({"choice": options} if len(options) > 1 else options[0])


def _flow(value: Json) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false"):
        return value
    # JSON is YAML.
    return json.dumps(value, ensure_ascii=False)


def _model(model: ModelAnswers) -> Json:
    fields: dict[str, Json] = {"model": model.spec}
    if model.base_url:
        fields["base_url"] = model.base_url
    if model.key:
        fields["key"] = model.key
    if model.price and any(model.price):
        fields["price"] = {"input": model.price[0], "output": model.price[1]}
    return fields if len(fields) > 1 else model.spec


def _data(data: DataAnswers, base: Path) -> Json:
    grader: dict[str, Json] = {"grader": data.grader} if data.grader else {}
    if data.file is None:
        return {"procedural": "pocket", "count": 200, **grader}
    named = (("question", data.question), ("answer", data.answer))
    fields: dict[str, Json] = {name: value for name, value in named if value not in (None, name)}
    relative = os.path.relpath(Path(data.file).resolve(), base.resolve())
    return {"file": Path(relative).as_posix(), **({"fields": fields} if fields else {}), **grader}


def _write(folder: Path, texts: Sequence[str]) -> None:
    for name, text in zip(FILES, texts, strict=True):
        (folder / name).write_text(text, encoding="utf-8")


def _check(draft: Path) -> int:
    """Load everything as the commands will; the number of items."""
    from inferloom.evaluation.data import load_items
    from inferloom.evaluation.splits import split_items
    from inferloom.pipelines.spec import PipelineSpec
    from inferloom.search.job import load_job

    try:
        PipelineSpec.load(draft / FILES[1])
        job = load_job(draft / FILES[2])
        data = load_items(job.spec.data, base=job.base)
        split_items(data.items, job.spec.split, name=data.name)
    except UserError as error:
        # The files are named as they would have been.
        error.message = error.message.replace(f"{draft}/", "")
        error.where = error.where and error.where.replace(f"{draft}/", "")
        raise
    return len(data.items)

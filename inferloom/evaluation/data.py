"""Data sets: a JSONL or CSV file with a field mapping, or items made by the pocket task families.

Every mistake in a file is one `DataError` that names the file, the line and the field, before anything is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inferloom.core.digest import digest
from inferloom.core.errors import DataError, nearest
from inferloom.core.rows import Row, placed_rows, text_of
from inferloom.core.types import Json
from inferloom.evaluation.graders import Grader, GraderSpec, make_grader
from inferloom.evaluation.item import Item
from inferloom.evaluation.procedural import make_items, procedural_families

FieldName = Literal["question", "answer", "id", "notes", "examples", "options"]
_SUFFIXES = (".jsonl", ".csv")


class DataSpec(BaseModel):
    """Where items come from and how answers are graded: a `file`, or `procedural` task families."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(None, description="a .jsonl or .csv file")
    procedural: str | list[str] | None = Field(
        None, description="`pocket` for every task family, `pocket:sum` for one, or a list of such names"
    )
    count: int = Field(200, ge=1, le=1_000_000, description="how many items to make (procedural only)")
    levels: list[int] | None = Field(None, description="levels of difficulty, from 1 (procedural only)")
    seed: int = Field(0, ge=0, description="another seed makes other items (procedural only)")
    fields: dict[FieldName, str] = Field(default_factory=dict, description="what the file calls each field")
    grader: GraderSpec | None = Field(None, description="`exact` for files, `pocket` for procedural items")
    limit: int | None = Field(None, ge=1, description="take only the first so many items")

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.file is None) == (self.procedural is None):
            raise ValueError("give either `file` or `procedural`")
        other = ("count", "levels", "seed") if self.file is not None else ("fields",)
        stray = [name for name in other if name in self.model_fields_set]
        if stray:
            source = "file" if self.file is not None else "procedural"
            raise ValueError(f"`{stray[0]}` does not go with `{source}`")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Items with the grader that judges them."""

    name: str
    """The file's path, or `pocket:...`: under this name touches of the test split are counted."""
    items: tuple[Item, ...]
    grader: Grader


def load_items(spec: DataSpec, *, base: Path | None = None) -> DataSet:
    """Read or make the items of a data set, all of them checked against its grader.

    Args:
        spec: What to load.
        base: The folder that a relative `file` is relative to; the working folder where None.

    Raises:
        DataError: The file is missing, unreadable, empty or malformed, or an item cannot be graded.
        UnknownNameError: No grader or task family has this name.
        SpecError: A parameter of the grader is wrong.
    """
    grader = make_grader(spec.grader or ("pocket" if spec.file is None else "exact"))
    if spec.file is None:
        name, placed = _procedural(spec)
    else:
        name = spec.file
        placed = _from_file((base or Path()) / spec.file, spec.fields, grader.needs_answer, spec.limit)
    items: list[Item] = []
    first_place: dict[str, str] = {}
    for place, item in placed:
        if len(items) == spec.limit:
            break
        refusal = grader.refusal(item)
        if refusal:
            raise DataError(refusal, where=place)
        if item.id in first_place:
            raise DataError(
                f"the id `{item.id}` is already that of {first_place[item.id]}; ids must differ", where=place
            )
        first_place[item.id] = place
        items.append(item)
    if not items:
        raise DataError("the data set is empty; it needs at least one item", where=name)
    return DataSet(name=name, items=tuple(items), grader=grader)


def _from_file(
    path: Path, fields: Mapping[FieldName, str], needs_answer: bool, limit: int | None
) -> Iterator[tuple[str, Item]]:
    """(`file:line`, item) for each row."""
    if path.suffix.lower() not in _SUFFIXES:
        # A bare word is rather a slip in the name of what comes along, or of a file that is here.
        near = nearest(str(path), ["pocket", *(one.name for one in Path().iterdir() if one.suffix in _SUFFIXES)])
        message = f"a data file ends in .jsonl or .csv, not in `{path.suffix}`"
        raise DataError(message, where=str(path), suggestion=near)
    seen: dict[str, int] = {}
    for place, row in placed_rows(path):
        item = _item(row, fields, needs_answer, place)
        if not item.id:
            # Rows without an id are known by their content; the second of two equal rows gets its own name.
            key = digest("\0".join((" ".join(item.question.split()), *item.notes)), 8)
            seen[key] = seen.get(key, 0) + 1
            item = replace(item, id=key if seen[key] == 1 else f"{key}-{seen[key]}")
        yield place, item


def _item(row: Row, fields: Mapping[FieldName, str], needs_answer: bool, place: str) -> Item:
    def named(field: FieldName) -> str:
        return fields.get(field, field)

    def required(field: FieldName) -> str:
        name = named(field)
        if name not in row:
            there = ", ".join(f"`{key}`" for key in list(row)[:12]) or "no fields"
            raise DataError(
                f"the field `{name}` ({field}) is missing; the row has {there}",
                where=place,
                suggestion=nearest(name, row),
            )
        text = text_of(row[name], name, place)
        if not text.strip():
            raise DataError(f"the field `{name}` ({field}) is empty", where=place)
        return text

    for field, name in fields.items():
        if name not in row and field not in ("question", "answer"):
            required(field)
    question = required("question")
    answer = required("answer") if needs_answer or named("answer") in row else ""
    id_cell = row.get(named("id"))
    used = {named("question"), named("answer"), named("id"), named("notes"), named("examples"), named("options")}
    meta = {key: value for key, value in row.items() if key not in used}
    if row.get(named("options")):
        meta["options"] = row[named("options")]
    return Item(
        id="" if id_cell is None else text_of(id_cell, named("id"), place).strip(),
        question=question,
        answer=answer.strip(),
        meta=meta,
        notes=_notes(row.get(named("notes")), named("notes"), place),
        examples=_examples(row.get(named("examples")), named("examples"), place),
    )


def _notes(value: Json, name: str, place: str) -> tuple[str, ...]:
    """A list of texts, or one text with a note a line (the only way in CSV)."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(text_of(note, name, place) for note in value)
    return tuple(line.strip() for line in text_of(value, name, place).splitlines() if line.strip())


def _examples(value: Json, name: str, place: str) -> tuple[tuple[str, str], ...]:
    """A list of [question, answer] pairs; in CSV the same as JSON text."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise DataError(
                f"the field `{name}` must be a JSON list of [question, answer] pairs", where=place
            ) from None
    if not value:
        return ()
    pairs: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"the field `{name}` must be a list of [question, answer] pairs", where=place)
        pairs.append((text_of(pair[0], name, place), text_of(pair[1], name, place)))
    return tuple(pairs)


def _procedural(spec: DataSpec) -> tuple[str, Iterator[tuple[str, Item]]]:
    """The name of a procedural data set and its items; the place of an item is its id."""
    wanted = [spec.procedural] if isinstance(spec.procedural, str) else list(spec.procedural or ())
    families = procedural_families(wanted)
    parts = ["+".join(wanted) or "pocket", f"seed {spec.seed}"]
    if spec.levels is not None:
        parts.insert(1, "levels " + ",".join(map(str, spec.levels)))
    items = make_items(families, count=spec.count, levels=spec.levels, seed=spec.seed)
    return ", ".join(parts), ((item.id, item) for item in items)

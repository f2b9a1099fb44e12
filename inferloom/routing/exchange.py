"""Outcomes from and to files: CSV, JSONL or Parquet, long or wide.

Long, a row for each result: `query`, `arm`, `quality`, and where known `cost`, `count`, `id`, `tag`, `propensity`.
Wide, a row for each question: `query`, a column of quality for each arm, and where known `cost:ARM`, `id`, `tag`. A
file is long where it has a column `arm`. In a wide file the arms are the columns that are named as arms, or else all
that hold numbers only. An empty cell was not run. CSV may be packed (`.csv.gz`); Parquet needs the package pyarrow.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeAlias

import numpy as np

from inferloom.core.errors import DataError, SetupError, UnknownNameError, nearest
from inferloom.core.rows import placed_rows, text_of
from inferloom.core.types import Json
from inferloom.routing.outcomes import COST_UNITS, Gatherer, Outcomes, names_arm

Row: TypeAlias = "Mapping[str, Json]"
ENDINGS = (".csv", ".csv.gz", ".jsonl", ".parquet")
COST = "cost:"
FIELDS = ("query", "arm", "quality", "cost", "count", "id", "tag", "propensity")


def read_outcomes(
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    arms: Sequence[str] = (),
    costs: Mapping[str, float] | None = None,
    unit: str = "tokens",
) -> Outcomes:
    """An outside outcome matrix.

    Args:
        path: The file.
        fields: What it calls a field of `FIELDS`, where that differs.
        arms: The columns that are arms (wide files); empty: those that hold numbers only.
        costs: By arm: the cost of a run, where the file has none.
        unit: Of cost.

    Raises:
        DataError: The file cannot be read, or a value is wrong; `where` is `file:line`.
        SetupError: Parquet without pyarrow.
        UnknownNameError: The unit, a field or an arm does not exist.
    """
    if unit not in COST_UNITS:
        raise UnknownNameError("unit of cost", unit, COST_UNITS)
    named = dict.fromkeys(FIELDS, "") | {field: field for field in FIELDS} | dict(fields or {})
    stray = next((field for field in fields or {} if field not in FIELDS), None)
    if stray is not None:
        raise UnknownNameError("field", stray, FIELDS)
    rows = list(_rows(path))
    if not rows:
        raise DataError("there are no rows", where=str(path))
    place, first = rows[0]
    if named["query"] not in first:
        near = nearest(named["query"], first)
        raise DataError(f"there is no column `{named['query']}` (query)", where=place, suggestion=near)
    gatherer = Gatherer(unit=unit, source=str(path))
    if named["arm"] in first:
        _read_long(rows, named, costs or {}, gatherer)
    else:
        _read_wide(rows, named, arms, costs or {}, gatherer)
    return gatherer.outcomes()


def _read_long(
    rows: Sequence[tuple[str, Row]], named: Mapping[str, str], costs: Mapping[str, float], gatherer: Gatherer
) -> None:
    for place, row in rows:
        name = text_of(row.get(named["arm"]), named["arm"], place)
        arm = names_arm(name)
        gatherer.add_arm(arm)
        quality = _number(row, named["quality"], place, 0.0, 1.0)
        if quality is None:
            continue
        cost = _number(row, named["cost"], place, 0.0, math.inf)
        count = _number(row, named["count"], place, 1.0, math.inf)
        gatherer.add(
            arm.id,
            text_of(row.get(named["query"]), named["query"], place),
            quality,
            _cost(name, cost, costs, place),
            id=_text(row, named["id"], place),
            tag=_text(row, named["tag"], place),
            runs=int(count or 1),
            propensity=_number(row, named["propensity"], place, 0.0, 1.0),
        )


def _read_wide(
    rows: Sequence[tuple[str, Row]],
    named: Mapping[str, str],
    arms: Sequence[str],
    costs: Mapping[str, float],
    gatherer: Gatherer,
) -> None:
    where, first = rows[0]
    taken = {named[field] for field in ("query", "id", "tag", "count", "propensity")}
    columns = [column for column in first if column not in taken and not column.startswith(COST)]
    for arm in arms:
        if arm not in columns:
            raise UnknownNameError("arm", arm, columns, where=where)
    chosen = list(arms) or [column for column in columns if all(_is_number(row.get(column)) for _, row in rows)]
    if not chosen:
        raise DataError("no column holds numbers only, so there is no arm; name the arms", where=where)
    for name in chosen:
        gatherer.add_arm(names_arm(name))
    seen: dict[str, int] = {}
    for place, row in rows:
        query = text_of(row.get(named["query"]), named["query"], place)
        seen[query] = seen.get(query, 0) + 1
        # A question that stands twice is two rows, as in the file; its group is the same.
        id = _text(row, named["id"], place) or (query if seen[query] == 1 else f"{query}\0{seen[query]}")
        for name in chosen:
            quality = _number(row, name, place, 0.0, 1.0)
            if quality is None:
                continue
            cost = _cost(name, _number(row, COST + name, place, 0.0, math.inf), costs, place)
            gatherer.add(names_arm(name).id, query, quality, cost, id=id, tag=_text(row, named["tag"], place))


def _cost(arm: str, found: float | None, given: Mapping[str, float], place: str) -> float:
    if found is not None:
        return found
    if arm not in given:
        raise DataError(f"the arm `{arm}` has no cost: neither a column nor a given value", where=place)
    return given[arm]


def _number(row: Row, name: str, place: str, low: float, high: float) -> float | None:
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        upper = "" if high == math.inf else f" to {high:g}"
        raise DataError(f"`{name}` is `{value}`; must be a number from {low:g}{upper}", where=place)
    return number


def _text(row: Row, name: str, place: str) -> str | None:
    value = row.get(name)
    return None if value in (None, "") else text_of(value, name, place)


def _is_number(value: Json) -> bool:
    if value is None or value == "":
        return True
    try:
        return isinstance(value, str | int | float) and math.isfinite(float(value))
    except ValueError:
        return False


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise DataError(f"a file of outcomes ends in {', '.join(ENDINGS)}", where=str(path))
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith(".gz"):
        yield from _packed(path)
    else:
        yield from placed_rows(path)


def _packed(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"the file cannot be unpacked: {error}", where=str(path)) from None
    with NamedTemporaryFile(suffix=".csv") as plain:
        plain.write(content)
        plain.flush()
        for place, row in placed_rows(Path(plain.name)):
            yield place.replace(plain.name, str(path)), row


def need_pyarrow() -> None:
    """See that Parquet can be read and written.

    Raises:
        SetupError: It cannot.
    """
    if find_spec("pyarrow") is None:
        raise SetupError("Parquet needs the package `pyarrow`; run `pip install pyarrow`, or use .csv or .jsonl")


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    need_pyarrow()
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"the file cannot be read: {str(error).splitlines()[0]}", where=str(path)) from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}:{number}", row


def write_outcomes(outcomes: Outcomes, path: Path) -> int:
    """Write outcomes as a long file, which `read_outcomes` reads; the number of rows.

    Raises:
        SetupError: Parquet without pyarrow.
        DataError: The ending is unknown, or the file cannot be written.
    """
    rows: list[dict[str, str | float | None]] = []
    for row, arm in np.argwhere(outcomes.observed):
        told = outcomes.propensity
        rows.append(
            {
                "id": outcomes.ids[row],
                "query": outcomes.texts[row],
                "tag": outcomes.tags[row],
                "arm": outcomes.arms[arm].label,
                "quality": float(outcomes.quality[row, arm]),
                "count": int(outcomes.count[row, arm]),
                "cost": float(outcomes.cost[row, arm]),
                "propensity": None if told is None or np.isnan(told[row, arm]) else float(told[row, arm]),
            }
        )
    beside = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".jsonl":
            beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        elif path.suffix == ".csv":
            with beside.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else list(FIELDS))
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".parquet":
            need_pyarrow()
            from pyarrow import Table, parquet

            parquet.write_table(Table.from_pylist(rows), beside)
        else:
            raise DataError("a file of outcomes ends in .csv, .jsonl or .parquet", where=str(path))
        beside.replace(path)
    except OSError as error:
        raise DataError(f"the file cannot be written: {error.strerror or error}", where=str(path)) from None
    finally:
        beside.unlink(missing_ok=True)
    return len(rows)

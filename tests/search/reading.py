"""What a search left in its database, read while others write to it."""

from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from inferloom.store.engine import parse_url

SCORES = """
    select trial, split, item, pipeline, score, answer, nominal_calls, nominal_prompt_tokens, nominal_completion_tokens
    from evaluations order by trial, split, item
"""
RECEIVED = "select sum(completions) from calls where outcome = 'ok' and attempt > 0"
BANKED = "select count(*) from completions"


class Reader:
    """Looks into a database that others write to."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(parse_url(url))

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def count(self, statement: str) -> int:
        return int(str(self.rows(statement)[0][0]))

    def counts(self) -> tuple[int, int]:
        """Banked completions and scores; nothing before the database has its tables."""
        try:
            return self.count(BANKED), self.count("select count(*) from evaluations")
        except DBAPIError:
            return 0, 0

    def progress(self) -> int:
        """Both together."""
        return sum(self.counts())

    def close(self) -> None:
        self._engine.dispose()

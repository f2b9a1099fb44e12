"""`inferloom studies`: the searches in the database."""

from __future__ import annotations

from datetime import datetime

from inferloom.cli.options import DEFAULT_DB, Db, Json, open_to_read
from inferloom.cli.output import print_json, print_table, print_text


def studies(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the studies; `inferloom show NAME` shows one."""
    store = open_to_read(db)
    try:
        found = store.studies()
        billed = {study.name: store.study_usage(study.name).billed for study in found}
    finally:
        store.close()
    if json:
        print_json(
            [
                {
                    "study": study.name,
                    "status": study.status,
                    "created": study.created,
                    "updated": study.updated,
                    "billed": billed[study.name].to_json(),
                }
                for study in found
            ]
        )
    elif found:
        print_table(
            ["study", "status", "started", "billed calls", "billed tokens"],
            [
                [
                    study.name,
                    study.status,
                    datetime.fromtimestamp(study.created).strftime("%Y-%m-%d %H:%M"),
                    f"{billed[study.name].calls:,}",
                    f"{billed[study.name].tokens:,}",
                ]
                for study in found
            ],
        )
    else:
        print_text("no studies yet; try: inferloom search demo --name first")

"""`inferloom nodes`: the techniques there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from inferloom.cli.options import DEFAULT_DB, Db, Json
from inferloom.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from inferloom.nodes.describe import NodeDescription


def nodes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One node, with its parameters.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """List the nodes, or describe one."""
    from inferloom.nodes.base import NODES
    from inferloom.nodes.describe import describe

    found = [describe(each) for each in (NODES.names() if name is None else [name])]
    if json:
        print_json(found)
    elif name is None:
        print_table(
            ["node", "requires", "provides", "what it does"],
            [
                [node["name"], ", ".join(node["requires"]) or "-", ", ".join(node["provides"]) or "-", node["summary"]]
                for node in found
            ],
        )
    else:
        _print_node(found[0])


def _print_node(node: NodeDescription) -> None:
    print_text(f"{node['name']}: {node['summary']}")
    print_text(
        f"requires {', '.join(node['requires']) or 'nothing'}; provides {', '.join(node['provides']) or 'nothing'}"
    )
    if node["paper"]:
        print_text(f"after {node['paper']}")
    print_table(
        ["parameter", "type", "default", "range", "what it is"],
        [
            [
                parameter["name"],
                parameter["type"],
                "required" if parameter["required"] else _value(parameter["default"]),
                parameter["range"] or "",
                parameter["description"],
            ]
            for parameter in node["parameters"]
        ],
    )
    print_text(f"steps:\n{_indented(node['snippet'])}")


def _value(value: object) -> str:
    """A default as YAML would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip("\n").split("\n"))

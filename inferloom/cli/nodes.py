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
    from inferloom.pipelines.steps import FORMS

    if name in FORMS:
        shown = {"name": name, "form": FORMS[name]}
        if json:
            print_json(shown)
        else:
            print_text(f"{name}: a control form, which stands among the steps\n\n{FORMS[name]}")
        return
    found = [describe(each) for each in (NODES.names() if name is None else [name])]
    if json:
        print_json(found)
    elif name is None:
        print_table(
            ["node", "requires", "provides", "calls", "what it does"],
            [
                [
                    node["name"],
                    ", ".join(node["requires"]) or "-",
                    ", ".join(node["provides"]) or "-",
                    _calls(node, "4"),
                    node["summary"],
                ]
                for node in found
            ],
        )
        print_text("calls: completions drawn by the node's example for 4 candidates; `inferloom nodes NAME` tells more")
        print_text(f"control forms among the steps: {', '.join(FORMS)}; `inferloom nodes when` tells more")
    else:
        _print_node(found[0])


def _print_node(node: NodeDescription) -> None:
    print_text(f"{node['name']}: {node['summary']}")
    print_text(
        f"requires {', '.join(node['requires']) or 'nothing'}; provides {', '.join(node['provides']) or 'nothing'}"
    )
    calls = ", ".join(f"{_calls(node, count)} for {count}" for count in node["calls"])
    print_text(
        f"its models need {', '.join(node['needs']) or 'nothing special'}; calls by candidates coming in: {calls}"
    )
    if node["oracle"]:
        print_text("looks at the right answer: a bound for evaluations, never compared with the rest")
    if not node["pocket"]:
        print_text("not measured on pocket: the pocket models were not taught what it asks")
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
    command = "inferloom eval FILE --data pocket" if node["oracle"] else 'inferloom run FILE "..."'
    missing = "" if node["pocket"] else ", put your models in"
    files = [str(value) for value in _texts(node) if value.endswith(".jsonl")]
    missing += f", make {files[0]}" if files else ""
    print_text(f"to try it, save this as a file{missing} and run `{command}`:\n\n{node['pipeline']}")


def _texts(node: NodeDescription) -> list[str]:
    """The words of the node's example."""
    return node["snippet"].split()


def _calls(node: NodeDescription, count: str) -> str:
    least, most = node["calls"][count]
    return str(least) if least == most else f"{least} to {most}"


def _value(value: object) -> str:
    """A default as YAML would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value) if str(value).isprintable() else repr(value)

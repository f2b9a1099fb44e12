"""Prompt packs: the wording of every node's roles for one kind of model.

A pack is a YAML file that maps a role to its turns:

    extends: general          # the pack that has the roles left out here; for a user's pack, `general` by default
    options: 8                # the most candidates shown side by side, 2 to 26
    answer_instruction: "..." # a text that every template may use
    solve:
      - system: "{{ answer_instruction }}"
      - user: "{{ question }}"

Templates are Jinja in a sandbox. What models and users write reaches them only as values, never as templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from inferloom.core.errors import SetupError, SpecError, UnknownNameError, nearest
from inferloom.core.types import Message, Role
from inferloom.nodes.base import NODES

__all__ = ["VALUES", "PromptPack", "add_role", "load_pack", "pack_names"]

VALUES: dict[str, frozenset[str]] = {
    "notes": frozenset({"notes"}),
    "solve": frozenset({"question"}),
    "score": frozenset({"question", "candidate"}),
    "critique": frozenset({"question", "candidate"}),
    "revise": frozenset({"question", "candidate", "critique"}),
    "rank": frozenset({"question", "options"}),
    "fuse": frozenset({"question", "options"}),
}
"""The roles of the built-in nodes and the values that their templates may use, `answer_instruction` besides.

`options` is a list of candidates, each with `letter`, `text` and `critiques`. Other nodes add their own roles beside
their code: `add_role`.
"""
_ADDED: dict[str, tuple[tuple[Role, str], ...]] = {}
"""The general wording of added roles."""

_HERE = Path(__file__).parent
_SETTINGS = ("extends", "options", "answer_instruction")
_TURNS: tuple[Role, ...] = ("system", "user", "assistant")
_MOST_OPTIONS = 26
_VALUE = re.compile(r"\{\{ *([a-z_]+) *\}\}")
Filler: TypeAlias = Callable[[Mapping[str, object]], str]
"""Makes a turn's text from the values of its role."""
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


@dataclass(frozen=True, slots=True)
class PromptPack:
    """A loaded pack; `inferloom.core.protocols.Prompts` to the nodes."""

    name: str
    options: int
    answer_instruction: str
    roles: Mapping[str, tuple[tuple[Role, Filler], ...]]

    def render(self, role: str, values: Mapping[str, object]) -> tuple[Message, ...]:
        """The messages of a role, with its values filled in.

        Raises:
            UnknownNameError: The pack has no such role.
            SpecError: A template of the pack cannot be filled in with these values.
        """
        turns = self.roles.get(role)
        if turns is None:
            raise UnknownNameError(f"role of prompt pack `{self.name}`:", role, self.roles)
        filled = {"answer_instruction": self.answer_instruction, **values}
        try:
            return tuple([Message(turn, fill(filled)) for turn, fill in turns])
        except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError, ValueError) as error:
            # Templates are programs of the pack's author: these are the ways in which they go wrong on legal values.
            raise SpecError(f"role `{role}` of prompt pack `{self.name}` cannot be rendered: {error}") from error


def add_role(
    name: str,
    values: Iterable[str],
    *,
    user: str,
    system: str | None = None,
    before: Sequence[tuple[Role, str]] = (),
) -> str:
    """Add a role with its wording for general chat models; called where a node's module is imported.

    Args:
        name: The role.
        values: What its templates may use, `answer_instruction` besides.
        user: The template of the user's turn.
        system: The template of the system message.
        before: Turns in front of the user's, with their templates.

    Returns:
        The name.

    Raises:
        SetupError: The role is there already, with another wording.
    """
    turns: tuple[tuple[Role, str], ...] = (*before, ("user", user))
    if system is not None:
        turns = (("system", system), *turns)
    if name in VALUES and _ADDED.get(name) != turns:
        raise SetupError(f"prompt role `{name}` is defined twice; names must differ")
    VALUES[name] = frozenset(values)
    _ADDED[name] = turns
    _built_in.cache_clear()
    return name


def pack_names() -> list[str]:
    """The packs that come along."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def load_pack(name_or_path: str | Path) -> PromptPack:
    """A pack by name, or a user's by the path of its YAML file.

    Raises:
        UnknownNameError: No pack has this name.
        SpecError: The file cannot be read or does not say what a pack must; `where` is `file:line: field`.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in pack_names():
        return _built_in(text)
    if isinstance(name_or_path, str) and "/" not in text and not text.endswith((".yaml", ".yml")):
        raise UnknownNameError("prompt pack", text, pack_names())
    return _read(Path(name_or_path), base="general")


@cache
def _built_in(name: str) -> PromptPack:
    NODES.names()  # their modules add roles
    return _read(_HERE / f"{name}.yaml", base=None)


def _read(path: Path, base: str | None) -> PromptPack:
    """Parse a pack; roles it leaves out come from the pack it extends, `base` where it names none.

    A built-in pack that extends none lacks the roles it leaves out: its models were not taught them.
    """
    document = _parse(path)
    for key in document:
        if not isinstance(key, str):
            raise SpecError(f"role name must be a text, not `{key}`", where=_place(path, document, key))
        known = (*VALUES, *_SETTINGS)
        if key not in known and (near := nearest(key, known)):
            raise SpecError(f"unknown role `{key}`", where=_place(path, document, key), suggestion=near)
    extends = document.get("extends", base)
    if extends is not None and extends not in pack_names():
        raise UnknownNameError("prompt pack", str(extends), pack_names(), where=_place(path, document, "extends"))
    parent = _built_in(extends) if extends else None
    options = document.get("options", parent.options if parent else _MOST_OPTIONS)
    if type(options) is not int or not 2 <= options <= _MOST_OPTIONS:
        where = _place(path, document, "options")
        raise SpecError(f"options is `{options}`; must be a whole number from 2 to {_MOST_OPTIONS}", where=where)
    instruction = document.get("answer_instruction", parent.answer_instruction if parent else "")
    if not isinstance(instruction, str):
        where = _place(path, document, "answer_instruction")
        raise SpecError(f"answer_instruction is `{instruction}`; must be a text", where=where)
    own = {role: _turns(path, document, role) for role in document if role not in _SETTINGS}
    if path == _HERE / "general.yaml":
        for role, turns in _ADDED.items():
            compiled = tuple((turn, _compile(text, role, f"role `{role}`")) for turn, text in turns)
            own.setdefault(role, compiled)
    return PromptPack(path.stem, options, instruction, {**(parent.roles if parent else {}), **own})


def _parse(path: Path) -> CommentedMap:
    try:
        document = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"prompt pack cannot be read: {error.strerror or error}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise SpecError("prompt pack is not UTF-8 text", where=str(path)) from error
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpecError(f"not valid YAML: {error.problem or error.context}", where=f"{path}{line}") from error
    except YAMLError as error:
        raise SpecError(f"not valid YAML: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(document, CommentedMap):
        raise SpecError("a prompt pack must map roles to lists of turns", where=f"{path}:1")
    return document


def _turns(path: Path, document: CommentedMap, role: str) -> tuple[tuple[Role, Filler], ...]:
    """The compiled turns of a role."""
    where = _place(path, document, role)
    turns = document[role]
    if not isinstance(turns, list) or not turns:
        raise SpecError(f"role `{role}` must be a list of turns such as `- user: ...`", where=where)
    compiled: list[tuple[Role, Filler]] = []
    for turn in turns:
        if not isinstance(turn, dict) or len(turn) != 1:
            raise SpecError(
                f"a turn of `{role}` must be one of `system:`, `user:`, `assistant:` with its text", where=where
            )
        speaker, text = next(iter(turn.items()))
        if speaker not in _TURNS:
            raise UnknownNameError("speaker", str(speaker), _TURNS, where=where)
        if not isinstance(text, str):
            raise SpecError(f"the {speaker} turn of `{role}` is `{text}`; must be a text", where=where)
        compiled.append((speaker, _compile(text, role, where)))
    return tuple(compiled)


def _compile(text: str, role: str, where: str) -> Filler:
    """A template, refused where it uses a value that its role does not get."""
    try:
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
        template = _ENVIRONMENT.from_string(text)
    except TemplateSyntaxError as error:
        raise SpecError(f"template of `{role}`: {error.message}", where=where) from error
    if role in VALUES:
        allowed = VALUES[role] | {"answer_instruction"}
        for name in sorted(used - allowed):
            raise UnknownNameError(f"value of role `{role}`:", name, allowed, where=where)
    return _plain(text) or _filler(template)


def _plain(text: str) -> Filler | None:
    """What most turns of the built-in packs are, at a twentieth of Jinja's cost: one value, or a text without any."""
    value = _VALUE.fullmatch(text)
    if value:
        name = value[1]
        return lambda values: str(values[name])
    return None if "{" in text else lambda values: text


def _filler(template: Template) -> Filler:
    """What `template.render` does, without copying Jinja's global names for every text."""
    names = dict(template.globals)
    return lambda values: "".join(template.root_render_func(template.new_context({**names, **values}, shared=True)))


def _place(path: Path, document: CommentedMap, key: object) -> str:
    """`file:line: field` of a key, as far as it is known."""
    try:
        line = document.lc.key(key)[0] + 1
    except KeyError:
        return f"{path}: {key}"
    return f"{path}:{line}: {key}"

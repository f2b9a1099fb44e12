"""Prompt packs: the pocket pack against the training documents, the general pack's wording rules, and users' packs."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from inferloom.core.answers import extract_answer
from inferloom.core.errors import SpecError, UnknownNameError
from inferloom.core.types import Message, NodeState
from inferloom.models.pocket.jobs import CHECK, COMBINE, RANK, REVISE, SCORE, Curriculum, Document, Turn
from inferloom.nodes.common import converse, lettered
from inferloom.nodes.prompts import VALUES, load_pack, pack_names
from inferloom.nodes.testing import FakeContext, make_candidates

CONTEXT = FakeContext(prompts=load_pack("pocket"))


def messages(turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    return tuple(Message(turn.role, turn.content) for turn in turns)  # type: ignore[arg-type]  # a turn's role is a str


def state_before(turns: tuple[Turn, ...]) -> NodeState:
    """The state whose notes, examples and question stand in these turns, the last of which is the question."""
    notes = tuple(turns[0].content.split("\n")) if turns[0].role == "system" else ()
    shown = turns[1 if notes else 0 : -1]
    examples = tuple((shown[i].content, shown[i + 1].content) for i in range(0, len(shown), 2))
    question = turns[-1].content
    return NodeState(question=question, messages=(Message("user", question),), notes=notes, examples=examples)


def side_by_side(content: str, job: str) -> tuple[str, list[str]]:
    """The question and the solutions in the user turn of a comparing job."""
    question, *shown = re.split(r"\n[A-H]\)\n", content.removesuffix(f"\n{job}"))
    return question, shown


def jobs_in(document: Document) -> list[str]:
    """Compare every job of a document with what the pack says; the jobs found."""
    *opening, answer = document.trunk
    asked = opening[-1].content
    for job, role in ((RANK, "rank"), (COMBINE, "fuse")):
        if asked.endswith(f"\n{job}"):
            question, shown = side_by_side(asked, job)
            state = state_before((*opening[:-1], Turn("user", question)))
            said = converse(state, CONTEXT, role, {"options": lettered(make_candidates(shown))})
            assert said == messages(tuple(opening))
            return [role]
    state = state_before(tuple(opening))
    assert converse(state, CONTEXT, "solve") == messages(tuple(opening))
    found = ["solve"]
    for branch in document.branches:
        attempt = answer.content[: branch.cut]
        trunk = (*opening, Turn("assistant", attempt))
        values = {"candidate": attempt}
        job = branch.turns[0].content
        role = {SCORE: "score", CHECK: "critique"}[job]
        assert converse(state, CONTEXT, role, values) == messages((*trunk, branch.turns[0]))
        found.append(role)
        if len(branch.turns) > 2:
            assert branch.turns[2].content == REVISE
            values["critique"] = branch.turns[1].content
            assert converse(state, CONTEXT, "revise", values) == messages((*trunk, *branch.turns[:3]))
            found.append("revise")
    return found


def test_the_pocket_pack_says_what_the_pocket_models_were_taught() -> None:
    curriculum = Curriculum(Random(7))
    found = Counter(job for _ in range(400) for job in jobs_in(curriculum.document()))
    assert set(found) == {"solve", "score", "critique", "revise", "rank", "fuse"}
    assert min(found.values()) >= 10


def test_the_pocket_pack_shows_as_many_options_as_were_taught() -> None:
    curriculum = Curriculum(Random(7))
    shown = [
        len(side_by_side(document.trunk[-2].content, RANK)[1])
        for document in (curriculum.document() for _ in range(300))
        if document.trunk[-2].content.endswith(f"\n{RANK}")
    ]
    assert max(shown) == load_pack("pocket").options == 4


def test_the_general_pack_has_every_role() -> None:
    assert pack_names() == ["general", "pocket"]
    assert set(load_pack("general").roles) == set(VALUES)
    assert set(load_pack("pocket").roles) <= set(VALUES), "a role that no node speaks"


def test_the_general_pack_asks_for_an_answer_that_is_found_again() -> None:
    for role in ("solve", "revise", "fuse"):
        said = load_pack("general").render(
            role, {"question": "q", "candidate": "c", "critique": "k", "options": lettered(make_candidates(["a"]))}
        )
        assert 'one last line that starts with "A:"' in said[0].content
    assert extract_answer("2 + 3 = 5\nA: 5") == "5"


@pytest.mark.parametrize("pack", ["general", "pocket"])
def test_values_are_never_templates(pack: str) -> None:
    hostile = "{{ 7 * 6 }}{% raw %}{# x #}{{ self }}"
    for role in set(load_pack(pack).roles) & {"solve", "score", "critique", "revise", "rank", "fuse", "notes"}:
        values = {"question": hostile, "candidate": hostile, "critique": hostile, "notes": [hostile]}
        said = load_pack(pack).render(role, {**values, "options": lettered(make_candidates([hostile]))})
        text = "".join(message.content for message in said)
        assert hostile in text and "42" not in text.replace("A: 42", "")


def test_trailing_newlines_of_a_value_stay() -> None:
    assert load_pack("pocket").render("solve", {"question": "line\n"})[0].content == "line\n"


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_a_users_pack_takes_the_other_roles_from_the_general_one(write: Path) -> None:
    write.write_text("answer_instruction: End with A.\nsolve:\n  - user: '{{ question }} {{ answer_instruction }}'\n")
    pack = load_pack(str(write))
    assert pack.name == "mine" and pack.options == load_pack("general").options
    assert pack.render("solve", {"question": "2 + 3?"}) == (Message("user", "2 + 3? End with A."),)
    assert pack.render("score", {"question": "q", "candidate": "c"}) == load_pack("general").render(
        "score", {"question": "q", "candidate": "c"}
    )
    assert "End with A." in pack.render("fuse", {"question": "q", "options": []})[0].content


def test_a_users_pack_can_extend_another(write: Path) -> None:
    write.write_text("extends: pocket\noptions: 3\n")
    pack = load_pack(write)
    assert pack.options == 3 and pack.render("solve", {"question": "q"}) == (Message("user", "q"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.yaml:1: a prompt pack must map roles"),
        ("- solve", r"mine\.yaml:1: a prompt pack must map roles"),
        ("solve: [", r"mine\.yaml:\d: not valid YAML"),
        ("solve: {{ question }}", r"mine\.yaml"),
        ("a: 1\na: 2\n", r"mine\.yaml:2: not valid YAML"),
        ("options: 4\nslove:\n  - user: x\n", r"mine\.yaml:2: slove: unknown role `slove`; did you mean `solve`"),
        ("options: 40", r"mine\.yaml:1: options: options is `40`; must be a whole number from 2 to 26"),
        ("options: true", r"options is `True`"),
        ("extends: pockte", r"mine\.yaml:1: extends: unknown prompt pack `pockte`; did you mean `pocket`"),
        ("extends: [pocket]", r"mine\.yaml:1: extends: unknown prompt pack"),
        ("answer_instruction: 3", r"answer_instruction is `3`; must be a text"),
        ("solve: hello", r"role `solve` must be a list of turns"),
        ("solve: []", r"role `solve` must be a list of turns"),
        ("solve:\n  - user: a\n    system: b\n", r"a turn of `solve` must be one of"),
        ("solve:\n  - usr: a\n", r"unknown speaker `usr`; did you mean `user`"),
        ("solve:\n  - user: 3\n", r"the user turn of `solve` is `3`; must be a text"),
        ("solve:\n  - user: '{{ question'\n", r"mine\.yaml:1: solve: template of `solve`"),
        ("solve:\n  - user: '{{ qestion }}'\n", r"unknown value of role `solve`: `qestion`; did you mean `question`"),
        ("solve:\n  - user: '{{ question | shout }}'\n", r"template of `solve`: No filter named 'shout'"),
        ("1: x", r"role name must be a text, not `1`"),
    ],
)
def test_a_pack_with_a_mistake_is_refused_in_one_sentence(write: Path, text: str, message: str) -> None:
    write.write_text(text)
    with pytest.raises((SpecError, UnknownNameError), match=message) as refused:
        load_pack(write)
    assert "\n" not in refused.value.sentence


def test_a_pack_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown prompt pack `pocke`; did you mean `pocket`"):
        load_pack("pocke")
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        load_pack(str(tmp_path / "none.yaml"))
    with pytest.raises(SpecError, match="cannot be read"):
        load_pack(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_pack(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    "template", ["{{ question.__class__.__mro__ }}", "{{ ''.__class__ }}", "{{ 1 // 0 }}", "{{ question.no.such }}"]
)
def test_the_sandbox_and_failing_templates_give_one_error(write: Path, template: str) -> None:
    write.write_text(f'solve:\n  - user: "{template}"\n')
    with pytest.raises(SpecError, match="role `solve` of prompt pack `mine` cannot be rendered"):
        load_pack(write).render("solve", {"question": "q"})


def test_a_role_that_no_pack_has_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean `critique`"):
        load_pack("general").render("critic", {})

"""What the pocket models are taught to do, as training documents.

A document is a *trunk* (a question and an attempt at it) with *branches*: short conversations that go on from some
point of the trunk (score this step, check this solution, revise it). Branches of one trunk do not see one another, so
that one pass over the trunk teaches many judgements. The prompt pack `pocket` of the nodes writes the same
conversations; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from inferloom.models.pocket.tasks import FAMILIES, Item, final_answer
from inferloom.models.pocket.tasks.conventions import Code, Operator

SCORE, CHECK, REVISE, RANK, COMBINE = "score", "check", "revise", "rank", "combine"
OPTION_LETTERS = "ABCDEFGH"
RIGHT_DIGIT, WRONG_DIGIT = "9", "0"
DIGIT_WEIGHT = 8.0
"""The weight of a judge's digit in the loss."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A solution written by some model, with its verdicts line by line."""

    text: str
    verdicts: tuple[bool, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `weight` is the weight of its tokens in the loss (0: read, not learned)."""

    role: str
    content: str
    weight: float = 0.0
    closed: bool = True
    """Whether the end-of-turn token follows (it does not where a branch goes on from inside the turn)."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A conversation that goes on after the first `cut` characters of the trunk's last turn."""

    cut: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Whether the character at `at` of a trunk's turn is right; just behind the last one stands the end of the turn."""

    turn: int
    at: int
    right: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A trunk and what branches off its last turn; `marks` are read by training's doubt head alone."""

    trunk: tuple[Turn, ...]
    branches: tuple[Branch, ...] = ()
    marks: tuple[Mark, ...] = ()


def attempt_of(item: Item, text: str) -> Attempt:
    """Judge a text as an attempt at an item."""
    answer = final_answer(text)
    right = answer is not None and FAMILIES[item.family].is_right(item, answer)
    return Attempt(text, tuple(FAMILIES[item.family].step_verdicts(item, text.split("\n"))), right)


def marks_of(item: Item, attempt: Attempt, turn: int, start: int = 0) -> list[Mark]:
    """The characters of an attempt up to its first mistake, marked; where it shows only at a line's end, line ends.

    Args:
        item: What was asked.
        attempt: A solution of it.
        turn: The trunk's turn that shows the attempt.
        start: Where in that turn it begins.
    """
    lines = attempt.text.split("\n")
    ends = [len("\n".join(lines[: index + 1])) for index in range(len(lines))]
    wrong = next((index for index, fine in enumerate(attempt.verdicts) if not fine), None)
    if not FAMILIES[item.family].one_way:
        shown = ends if wrong is None else ends[: wrong + 1]
        return [Mark(turn, start + end, index != wrong) for index, end in enumerate(shown)]
    if wrong is None:
        return [Mark(turn, start + at, True) for at in range(len(attempt.text) + 1)]
    mistake = next((i for i, (a, b) in enumerate(zip(attempt.text, item.solution, strict=False)) if a != b), None)
    if mistake is None:
        mistake = min(len(attempt.text), len(item.solution))
    return [Mark(turn, start + at, at != mistake) for at in range(mistake + 1)]


def check_report(verdicts: Sequence[bool]) -> str:
    """The critique of a solution: a verdict for each line up to the first wrong one."""
    lines: list[str] = []
    for index, fine in enumerate(verdicts, start=1):
        lines.append(f"{index} {'ok' if fine else 'wrong'}")
        if not fine:
            break
    return "\n".join(lines)


def options_text(question: str, attempts: Sequence[str], job: str) -> str:
    """The user turn that shows several solutions under letters and names the job."""
    shown = "\n".join(f"{letter})\n{text}" for letter, text in zip(OPTION_LETTERS, attempts, strict=False))
    return f"{question}\n{shown}\n{job}"


def corrupt(item: Item, rng: Random) -> Attempt:
    """A wrong-looking attempt: one line of the right solution damaged, and what follows kept."""
    lines = item.solution.split("\n")
    index = rng.randrange(len(lines))
    body = list(lines[index])
    start = body.index("=") + 1 if "=" in body else 0
    spots = [i for i in range(start, len(body)) if body[i].isalnum() and not lines[index].startswith("A", i)]
    spot = rng.choice(spots or [len(body) - 1])
    if body[spot].isdigit():
        body[spot] = str((int(body[spot]) + rng.choice((1, 1, 9, 9, 2, 5))) % 10)
    elif spot + 1 < len(body) and rng.random() < 0.5:
        body[spot], body[spot + 1] = body[spot + 1], body[spot]
    else:
        body[spot] = rng.choice("abcdefghijklmnopqrstuvwxyz")
    lines[index] = "".join(body)
    return attempt_of(item, "\n".join(lines))


@dataclass(slots=True)
class Curriculum:
    """Draws training documents; `pool` holds items with attempts by real models, refreshed as training goes on.

    A small model learns little from what is beyond it: `easier` draws the lower of two levels, and `solve` is the share
    of documents that only solve. `damaged` is the share of judged solutions that are damaged on purpose: a mistake in
    what the model knows well teaches it to look for mistakes; its own, made where it does not know, hardly do.
    """

    rng: Random
    pool: list[tuple[Item, list[Attempt]]] = field(default_factory=list)
    easier: bool = False
    solve: float = 0.56
    damaged: float = 0.4
    share: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FAMILIES, 1.0))
    """How often each family is drawn, up to a factor."""

    def refill(self, pool: list[tuple[Item, list[Attempt]]]) -> None:
        """Take another pool, and draw the families more often that it shows to be unlearnt."""
        self.pool = pool
        for family in self.share:
            right = [a.right for item, attempts in pool if item.family == family for a in attempts]
            self.share[family] = 1.5 - sum(right) / len(right) if right else 1.0

    def document(self) -> Document:
        """Draw one document of a random job."""
        makers: tuple[tuple[float, Callable[[], Document]], ...] = (
            (self.solve, self._solve),
            (0.66 * (1 - self.solve), self._judge),
            (0.18 * (1 - self.solve), self._rank),
            (0.16 * (1 - self.solve), self._combine),
        )
        return self.rng.choices([m for _, m in makers], [w for w, _ in makers])[0]()

    def item(self, easier: bool = False) -> Item:
        """A fresh item of any family and level."""
        family = FAMILIES[self.rng.choices(list(self.share), list(self.share.values()))[0]]
        hardest = family.levels if self.rng.random() < 0.6 else min(family.levels, 5)
        level = self.rng.randint(1, hardest)
        return family.make(self.rng, min(level, self.rng.randint(1, hardest)) if self.easier or easier else level)

    def opening(self, item: Item) -> tuple[Turn, ...]:
        """What stands in front of an answer: perhaps notes, perhaps solved examples, then the question."""
        rng = self.rng
        turns: list[Turn] = []
        needs = FAMILIES[item.family].needs_notes
        lines = list(item.notes) if needs and rng.random() < 0.75 else []
        if needs or rng.random() < 0.15:
            for _ in range(rng.randint(0, 4)):
                other = FAMILIES[rng.choice(("operator", "code"))].make(rng, 1)
                lines.extend(note for note in other.notes if note[:3] not in {own[:3] for own in item.notes})
        rng.shuffle(lines)
        examples = (
            self._examples(item)
            if (needs and item.notes[0] not in lines and rng.random() < 0.8) or rng.random() < 0.1
            else []
        )
        if examples and rng.random() < 0.4:
            lines = [*lines, *(f"{example.question}\n{example.solution}" for example in examples)]
            examples = []
        if lines:
            turns.append(Turn("system", "\n".join(lines)))
        for example in examples:
            turns += [Turn("user", example.question), Turn("assistant", example.solution)]
        return (*turns, Turn("user", item.question))

    def _examples(self, item: Item) -> list[Item]:
        """Solved items of the same family; for a convention, ones that show it."""
        family, rng = FAMILIES[item.family], self.rng
        count = rng.randint(1, 3)
        if isinstance(family, Operator):
            return [family.like(rng, item, rng.randint(1, 2)) for _ in range(count)]
        if isinstance(family, Code):
            return family.showing(rng, item)
        return [family.make(rng, rng.randint(1, 3)) for _ in range(count)]

    def _solve(self) -> Document:
        item = self.item()
        text = item.solution
        branches = []
        if self.rng.random() < 0.3:
            branches.append(self._score_branch(text, len(text.split("\n")) - 1, True))
        return Document((*self.opening(item), Turn("assistant", text, 1.0)), tuple(branches))

    def _pooled(self) -> tuple[Item, list[Attempt]]:
        """An item of the pool with right and wrong attempts where there is one, so that a judge must read them."""
        for _ in range(8):
            item, attempts = self.rng.choice(self.pool)
            if len({a.right for a in attempts}) == 2:
                break
        return item, attempts

    def _some_attempt(self) -> tuple[Item, Attempt]:
        """An attempt by a model or a damaged solution, about as often right as wrong."""
        wanted = self.rng.random() < 0.45
        if self.pool and self.rng.random() >= self.damaged:
            item, attempts = self._pooled()
            fitting = [a for a in attempts if a.right == wanted]
            return item, self.rng.choice(fitting or attempts)
        item = self.item(easier=True)
        return item, attempt_of(item, item.solution) if wanted else corrupt(item, self.rng)

    def _judge(self) -> Document:
        """An attempt with judgements of its steps, its answer and its first mistake, and perhaps its revision."""
        item, attempt = self._some_attempt()
        lines = attempt.text.split("\n")
        branches = [self._score_branch(attempt.text, len(lines) - 1, attempt.right)]
        first_wrong = next((i for i, fine in enumerate(attempt.verdicts) if not fine), len(lines) - 1)
        cuts = {min(first_wrong, len(lines) - 2), *(self.rng.randrange(len(lines)) for _ in range(3))}
        branches += [
            self._score_branch(attempt.text, cut, attempt.verdicts[cut])
            for cut in sorted(cuts)
            if 0 <= cut < len(lines) - 1
        ]
        if self.rng.random() < 0.5:
            turns = [Turn("user", CHECK), Turn("assistant", check_report(attempt.verdicts), 1.0)]
            if self.rng.random() < 0.7:
                right = attempt.text if attempt.right else item.solution
                turns += [Turn("user", REVISE), Turn("assistant", right, 0.5)]
            branches.append(Branch(len(attempt.text), tuple(turns)))
        weight = 1.0 if attempt.right and all(attempt.verdicts) else 0.0
        trunk = (*self.opening(item), Turn("assistant", attempt.text, weight))
        return Document(trunk, tuple(branches), tuple(marks_of(item, attempt, len(trunk) - 1)))

    @staticmethod
    def _score_branch(text: str, line: int, right: bool) -> Branch:
        cut = len("\n".join(text.split("\n")[: line + 1]))
        digit = RIGHT_DIGIT if right else WRONG_DIGIT
        return Branch(cut, (Turn("user", SCORE), Turn("assistant", digit, DIGIT_WEIGHT)))

    def _several(self, most: int) -> tuple[Item, list[Attempt]]:
        """An item with two to `most` attempts."""
        count = self.rng.randint(2, most)
        if self.pool and self.rng.random() >= self.damaged:
            item, attempts = self._pooled()
            return item, self.rng.sample(attempts, min(count, len(attempts)))
        item = self.item(easier=True)
        right = attempt_of(item, item.solution)
        return item, [right if self.rng.random() < 0.4 else corrupt(item, self.rng) for _ in range(count)]

    def _rank(self) -> Document:
        """Several attempts; the letters of the right ones first, each group in the order shown."""
        item, attempts = self._several(4)
        order = sorted(range(len(attempts)), key=lambda i: not attempts[i].right)
        ranking = " ".join(OPTION_LETTERS[i] for i in order)
        return self._compared(item, attempts, RANK, Turn("assistant", ranking, 3.0))

    def _combine(self) -> Document:
        """Several attempts; one right solution."""
        item, attempts = self._several(4)
        right = next((a.text for a in attempts if a.right and all(a.verdicts)), item.solution)
        return self._compared(item, attempts, COMBINE, Turn("assistant", right, 1.0))

    def _compared(self, item: Item, attempts: list[Attempt], job: str, answer: Turn) -> Document:
        """A document that shows several attempts in one turn."""
        before = self.opening(item)[:-1]
        shown = options_text(item.question, [a.text for a in attempts], job)
        marks: list[Mark] = []
        start = len(f"{item.question}\n")
        for attempt in attempts:
            start += len("A)\n")
            marks += marks_of(item, attempt, len(before), start)
            start += len(f"{attempt.text}\n")
        return Document((*before, Turn("user", shown), answer), marks=tuple(marks))

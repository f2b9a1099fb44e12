"""A solution that two models write in turn: what stands, who wrote which step, and the draft that is not kept yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from inferloom.core.types import Candidate, StepRecord
from inferloom.nodes.stepping import Partial


@dataclass(slots=True)
class Chain:
    """A solution on its way, with the story of its steps."""

    part: Partial = field(default_factory=Partial)
    records: list[StepRecord] = field(default_factory=list)
    ahead: Partial | None = None
    """The next step where it is drafted, and not kept yet."""
    repeated: int = 1
    last: str = ""

    def keep(self, part: Partial, record: StepRecord, repeats: int) -> None:
        """Go on to a part with one more step; a step said `repeats` times in a row ends the solution."""
        said = part.text[len(self.part.text) :].strip()
        self.repeated = self.repeated + 1 if said and said == self.last else 1
        self.last = said
        self.part = replace(part, end="cut") if self.repeated >= repeats and not part.end else part
        self.records.append(record)

    def told(self, candidate: Candidate) -> Candidate:
        """The candidate with the story of its steps."""
        return replace(candidate, origin={**candidate.origin, "steps": self.records})

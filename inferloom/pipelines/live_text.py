"""A text that is told piece by piece before it is known to the end."""

from __future__ import annotations

from inferloom.core.answers import split_reasoning


class LiveText:
    """What of an answer can be told while its completion comes. Reasoning is held back: it is no part of the answer.

    Args:
        stops: The answer ends before the first of these; what might be the beginning of one is held back.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._stops = stops
        self._held = max((len(stop) - 1 for stop in stops), default=0)
        self._heard = ""
        self.sent = ""

    def hear(self, text: str) -> str:
        """More of the completion; what of the answer can be told now."""
        self._heard += text
        seen = self._heard
        if "<" in seen:
            # What may turn out to be the beginning of a tag is held back.
            seen, _ = split_reasoning(seen)
            last = seen.rfind("<")
            seen = seen[:last] if last >= 0 and ">" not in seen[last:] else seen
        if any(stop in seen for stop in self._stops):
            return ""  # the end is near; the rest comes with the whole answer
        return self._send(seen[: len(seen) - self._held] if self._held else seen)

    def restart(self) -> None:
        """What was heard so far is void: the call is made again."""
        self._heard = ""

    def finish(self, whole: str) -> str | None:
        """What is missing of the whole answer; None where something else was told."""
        return self._send(whole) if whole.startswith(self.sent) else None

    def _send(self, ready: str) -> str:
        """What of a text was not told; a text that goes elsewhere is not told, and `finish` will say so."""
        if not ready.startswith(self.sent):
            return ""
        new = ready[len(self.sent) :]
        self.sent = ready
        return new

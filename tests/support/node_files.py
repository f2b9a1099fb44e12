"""The files that the examples of nodes name."""

from inferloom.core.types import Json

FILES: dict[str, list[dict[str, Json]]] = {
    "examples.jsonl": [{"question": f"What is {n} + 3?", "answer": f"{n} + 3\nA: {n + 3}"} for n in range(8)],
    "documents.jsonl": [{"text": text} for text in ("Numbers add up.", "Cats sleep.", "Addition is a sum.")],
}

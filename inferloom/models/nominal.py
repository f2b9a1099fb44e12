"""The nominal cost of a request: what it costs in production, whatever the bank, retries and the weather did today.

Each logical request is charged once: its prompt once, every completion it hands over. Cached tokens come from a stated
model of a prefix cache that holds the prompts of the run: a prompt's longest prefix, in blocks of the model's
`cache_block` characters, that an earlier request of the same node or of a node before it has sent to the same model.
The last token is always read, since that pass makes the answer's first. Seconds come from the rates.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from inferloom.core.tools import calls_text
from inferloom.core.types import Completion, Request, Usage
from inferloom.models.spec import ModelSpec

_TURN_TOKENS = 8
"""The most tokens that a chat template puts around one turn."""
_TOOLS_TOKENS = 512
"""The most tokens that a chat template puts around the definitions of tools to explain how they are called."""


def request_text(request: Request) -> str:
    """The prompt as one text, for prefix comparison and size bounds."""
    if request.prefix is not None:
        return request.prefix
    offered = "" if request.tools is None else request.tools.definitions
    return offered + "".join(
        f"\x01{message.role}\x02{message.content}{calls_text(message.tool_calls)}" for message in request.messages
    )


class PrefixModel:
    """Which prompts a run has sent, by model and node."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, bytes], set[str]] = defaultdict(set)
        """By model and block: the nodes that sent it."""

    def cached_share(self, model: str, path: str, before: frozenset[str], text: str, size: int) -> float:
        """Record a prompt of the node at `path`; the share of it (0 to 1) that nodes `before` or it itself had sent.

        Args:
            model: The model's name.
            path: The node that asks.
            before: The nodes before it.
            text: The prompt.
            size: Characters in a block.
        """
        hit, unbroken = 0, True
        for block in _chain(text, size):
            senders = self._senders[model, block]
            if unbroken:
                unbroken = path in senders or not senders.isdisjoint(before)
                hit += unbroken
            senders.add(path)
        return hit * size / len(text) if hit else 0.0


def _chain(text: str, size: int) -> list[bytes]:
    """A hash for every whole block, each over the text up to its end."""
    if len(text) < size:
        return []
    running = hashlib.blake2b(digest_size=8)
    chain: list[bytes] = []
    for start in range(0, len(text) - size + 1, size):
        running.update(text[start : start + size].encode(errors="surrogatepass"))
        chain.append(running.digest())
    return chain


def priced(spec: ModelSpec, usage: Usage) -> Usage:
    """The usage with its money by the price table and its seconds by the rates."""
    return Usage(
        calls=usage.calls,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        usd=spec.usd(usage),
        seconds=spec.seconds(usage),
    )


def nominal_usage(spec: ModelSpec, completions: Sequence[Completion], cached_share: float) -> Usage:
    """What a request with these completions costs in production."""
    if not completions:
        return Usage()
    prompt = max(completion.prompt_tokens for completion in completions)
    return priced(
        spec,
        Usage(
            calls=len(completions),
            prompt_tokens=prompt,
            cached_tokens=min(int(prompt * cached_share), max(0, prompt - 1)),
            completion_tokens=sum(completion.completion_tokens for completion in completions),
        ),
    )


def upper_bound(spec: ModelSpec, request: Request, count: int) -> Usage:
    """The most that `count` completions of a request can cost.

    A byte is at most one token in every byte-level tokenizer, so the prompt's bytes bound its tokens.
    """
    turns = max(1, len(request.messages))
    prompt = len(request_text(request).encode(errors="replace")) + _TURN_TOKENS * (turns + 1)
    if request.tools is not None:
        # Templates write the definitions out with white space of their own.
        prompt += len(request.tools.definitions.encode(errors="replace")) + _TOOLS_TOKENS
    return priced(spec, Usage(calls=count, prompt_tokens=prompt, completion_tokens=count * request.max_tokens))

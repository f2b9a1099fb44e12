"""How much of `spec_reason`'s prompts vLLM's prefix cache holds: `make bench-prefix-cache`.

Both pocket models are served by vLLM, and chains of `spec_reason` answer questions behind solved examples, the same
for all questions or others for each. Hits and look-ups, in tokens, are the servers' own counters
(`vllm:prefix_cache_hits_total` and `vllm:prefix_cache_queries_total`); the caches are emptied before every setting. The
table goes to standard output and, with `--card`, into `docs/vllm.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from card import DOCS, command_of, show

from inferloom.core.types import Json
from inferloom.models.client import Gateway
from inferloom.models.pocket.suite import pocket_items
from inferloom.models.pocket.tasks import Item
from inferloom.models.served import servers
from inferloom.store import Store
from tests_vllm.support import BLOCKS, ENVIRONMENT, SIZES, ask_server, count_servers, counted, entry, pipeline, solved

CARD = DOCS / "vllm.md"
EXAMPLES = (("none", 0, True), ("4, the same", 4, True), ("8, the same", 8, True), ("8, others", 8, False))
CHAINS = (1, 4, 8)
THRESHOLD = 0.75
HEADS = ("solved examples", "chains", "prompt tokens a call", "in the cache, small", "in the cache, large", "both")


@dataclass(frozen=True)
class Setting:
    """How questions are asked."""

    name: str
    examples: int
    same: bool
    """Whether all questions have the same examples in front."""
    chains: int


SETTINGS = [Setting(*examples, chains) for examples in EXAMPLES for chains in CHAINS]


@dataclass(frozen=True)
class Bench:
    """Asks questions."""

    gateway: Gateway
    models: Mapping[str, Json]
    items: Sequence[Item]
    at_once: int

    async def ask(self, setting: Setting) -> None:
        """Answer all questions."""
        step: dict[str, Json] = {"draft": "small", "model": "large", "expected": True, "threshold": THRESHOLD}
        step |= {"n": setting.chains, "max_tokens": 240}
        whole = pipeline(self.gateway, self.models, {"spec_reason": step}, "vote")
        gate = asyncio.Semaphore(self.at_once)

        async def one(place: int, item: Item) -> None:
            async with gate:
                examples = solved(setting.examples, 1 if setting.same else 1000 + place)
                await whole.ainvoke(item.question, notes=item.notes, examples=examples)

        await asyncio.gather(*(one(place, item) for place, item in enumerate(self.items)))

    async def row(self, setting: Setting) -> str:
        """A setting's row of the table."""
        for server in servers():
            emptied = ask_server(server.url, "POST", "/reset_prefix_cache")
            assert "true" in emptied, f"the cache of {server.name} could not be emptied: {emptied}"
        _, counts = await counted(lambda: self.ask(setting), count_servers)
        both = counts["small"] + counts["large"]
        shares = [f"{part.found / part.looked_up:.0%}" for part in (counts["small"], counts["large"], both)]
        cells = [setting.name, str(setting.chains), f"{both.prompt / both.completions:.0f}", *shares]
        return f"| {' | '.join(cells)} |"


async def serve_and_measure(folder: Path, items: Sequence[Item], at_once: int) -> str:
    # The switch that lets a server's cache be emptied from outside.
    environment: Json = {**ENVIRONMENT, "VLLM_SERVER_DEV_MODE": "1"}
    models: dict[str, Json] = {size: entry(size, folder / f"{size}.log", env=environment) for size in SIZES}
    with Store.open(str(folder / "bench.db")) as store:
        gateway = Gateway(store)
        try:
            warm = pipeline(gateway, models, {"spec_reason": {"draft": "small", "model": "large"}})
            await warm.ainvoke("1+1=?")
            bench = Bench(gateway, models, items, at_once)
            rows = [await bench.row(setting) for setting in SETTINGS]
        finally:
            await gateway.aclose()
    return "\n".join([f"| {' | '.join(HEADS)} |", "|---|---:|---:|---:|---:|---:|", *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=36, help="questions of every setting")
    parser.add_argument("--at-once", type=int, default=6, help="questions in flight together")
    parser.add_argument("--card", type=Path, nargs="?", const=CARD, help="write the table into the card")
    arguments = parser.parse_args()
    items = pocket_items("pocket", None, arguments.items, 11)
    with tempfile.TemporaryDirectory() as folder:
        table = asyncio.run(serve_and_measure(Path(folder), items, arguments.at_once))
    command = command_of("bench-prefix-cache")
    text = (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `{command}`: {len(items)} questions of every setting,"
        f" {arguments.at_once} at a time, threshold {THRESHOLD:g}, blocks of {BLOCKS} tokens, the caches emptied"
        " before every setting.\n\n"
        f"{table}"
    )
    show(text, arguments.card, __file__)


if __name__ == "__main__":
    main()

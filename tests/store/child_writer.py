"""A process that writes until it is killed, printing each id only when its write has returned.

Arguments: database, name of this process, how many tasks write at once.
"""

from __future__ import annotations

import asyncio
import sys

from store_samples import address, banked, call

from inferloom.store import Store


async def work(store: Store, name: str, task: int) -> None:
    number = 0
    while True:
        id = f"{name}-{task}-{number}"
        await store.write(banked(address(number, f"{name}-{task}"), text=id), call(id, run=name))
        print(id, flush=True)
        number += 1


async def main(url: str, name: str, tasks: int) -> None:
    store = Store.open(url)
    await asyncio.gather(*(work(store, name, task) for task in range(tasks)))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))

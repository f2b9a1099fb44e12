"""The one client in front of every model: bank, single flight, limiter, retries, ledger, metering, budget.

`Gateway` belongs to a database and a process and is shared by all runs; `RunClient` belongs to one run. Nothing reaches
a node before it is committed. What one request becomes in the ledger:

- a row per attempt, with what the server billed, its outcome, and an upper bound where the outcome is unknown;
- the nominal cost of the request once: on the attempt's row where one attempt brought everything, else on a closing row
  with `attempt` 0 (a request served from the bank has only that one).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import count
from weakref import WeakKeyDictionary

from inferloom.core.digest import digest
from inferloom.core.errors import BadResponseError, ModelError, Outcome, StorageError
from inferloom.core.protocols import Backend, TokenSink
from inferloom.core.tools import ToolCall, Tools
from inferloom.core.types import Completion, Message, Request, Usage, total
from inferloom.models import telemetry
from inferloom.models.backends import open_backend
from inferloom.models.budget import Budget, Purse
from inferloom.models.nominal import PrefixModel, nominal_usage, request_text, upper_bound
from inferloom.models.retry import pause_after, retrying
from inferloom.models.spec import ModelSpec
from inferloom.store import Address, CallRow, CompletionRow, RequestRow, Store

LANE = 1 << 20
"""Draw indices apart for parallel twins, so that which one asks first does not decide which draws it gets."""


def request_body(request: Request) -> str:
    """The request as canonical JSON, without n: what a bank address hashes and the database stores."""
    body: dict[str, object] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
    if request.prefix is None:
        body["messages"] = [_turn_body(message) for message in request.messages]
    else:
        body["prefix"] = request.prefix
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = request.stop
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.schema is not None:
        body["schema"] = request.schema
    if request.tools is not None:
        body["tools"] = [request.tools.definitions, request.tools.choice]
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _turn_body(message: Message) -> list[object]:
    turn: list[object] = [message.role, message.content]
    if message.tool_calls or message.tool_call_id is not None:
        turn.append([[call.to_json() for call in message.tool_calls], message.tool_call_id])
    return turn


def body_text(body: str) -> str:
    """The prompt of a request body, as `request_text` has it of the request."""
    data = json.loads(body)
    turns = []
    for role, content, *more in data.get("messages", ()):
        calls = tuple(ToolCall.from_json(call) for call in more[0][0]) if more else ()
        turns.append(Message(role, content, calls))
    tools = Tools(*data["tools"]) if "tools" in data else None
    return request_text(Request(messages=tuple(turns), prefix=data.get("prefix"), tools=tools))


def request_hash(body: str) -> str:
    """32 hex digits that stand for a request body."""
    return digest(body)


def draw_seed(address: Address, index: int) -> int:
    """The seed of a draw: 63 bits of the hash of its bank address."""
    text = f"{address.stream}|{address.fingerprint}|{address.request}|{index}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(slots=True)
class _Traffic:
    """What is going on with one model on one event loop."""

    limiter: asyncio.Semaphore
    flights: dict[tuple[str, int], asyncio.Future[Completion]] = field(default_factory=dict)
    """(address key, index) -> the completion being made."""


class OpenModel:
    """A model that is ready to be called, with its traffic per event loop."""

    def __init__(self, spec: ModelSpec, backend: Backend) -> None:
        self.spec = spec
        self.backend = backend
        self._fingerprint: str | None = None
        self._traffic: WeakKeyDictionary[asyncio.AbstractEventLoop, _Traffic] = WeakKeyDictionary()

    async def fingerprint(self) -> str:
        """The backend's fingerprint, asked for once."""
        if self._fingerprint is None:
            self._fingerprint = await self.backend.fingerprint()
        return self._fingerprint

    @property
    def traffic(self) -> _Traffic:
        """The model's traffic on the running event loop."""
        loop = asyncio.get_running_loop()
        traffic = self._traffic.get(loop)
        if traffic is None:
            traffic = self._traffic[loop] = _Traffic(asyncio.Semaphore(self.spec.concurrency))
        return traffic


class Gateway:
    """Every open model of a process in front of one database.

    Args:
        store: Where bank and ledger live.
        max_billed: The most that may be billed through this gateway; completions from the bank are free.
    """

    def __init__(self, store: Store, *, max_billed: Budget | None = None) -> None:
        telemetry.configure()
        self.store = store
        self.billed = Purse(max_billed or Budget(), label="max_billed ")
        self._models: dict[str, OpenModel] = {}
        self._stored_requests: set[tuple[str, str]] = set()

    def model(self, spec: ModelSpec, *, where: str | None = None) -> OpenModel:
        """The open model of a spec; two equal specs share one."""
        key = spec.model_dump_json()
        if key not in self._models:
            self._models[key] = OpenModel(spec, open_backend(spec, where=where))
        return self._models[key]

    def new_request(self, model: str, address: Address) -> bool:
        """Whether this process has not stored the request yet; True only once."""
        key = (model, address.request)
        if key in self._stored_requests:
            return False
        if len(self._stored_requests) > 100_000:
            self._stored_requests.clear()
        self._stored_requests.add(key)
        return True

    async def aclose(self) -> None:
        """Close every backend."""
        for model in self._models.values():
            await model.backend.aclose()
        self._models.clear()


@dataclass(slots=True)
class _Asked:
    """One logical request of a node on its way."""

    name: str
    model: OpenModel
    request: Request
    address: Address
    body: str
    path: str
    ordinal: int
    indices: Sequence[int]
    cached_share: float
    on_token: TokenSink | None
    on_restart: Callable[[int], None] | None
    charged: bool = False
    """Whether the nominal cost stands in the ledger already."""


class RunClient:
    """What one run asks of its models.

    Args:
        gateway: The models and the database.
        models: The pipeline's models by name.
        run: The run's id.
        stream: The name under which draws are shared.
        budget: What the run may cost, nominally.
        before: For each node path, the paths of the nodes that come before it (for the prefix model).
        lanes: For each node path, how many parallel twins come before it.
        fresh: Whether the stream is new with this run, so that the bank holds nothing of it and need not be asked.
        account: What the run's calls are billed to; None: the gateway's own.
    """

    def __init__(
        self,
        gateway: Gateway,
        models: Mapping[str, OpenModel],
        *,
        run: str,
        stream: str,
        budget: Budget | None = None,
        before: Mapping[str, frozenset[str]] | None = None,
        lanes: Mapping[str, int] | None = None,
        fresh: bool = False,
        account: Purse | None = None,
    ) -> None:
        self.gateway = gateway
        self.account = account or gateway.billed
        self.models = models
        self.run = run
        self.stream = stream
        self.fresh = fresh
        self.purse = Purse(budget or Budget())
        self.nominal: dict[str, Usage] = defaultdict(Usage)
        self.billed: dict[str, Usage] = defaultdict(Usage)
        self.bound: dict[str, Usage] = defaultdict(Usage)
        self.drawn: Counter[str] = Counter()
        """How many draws of each address and lane were handed out."""
        self._before = before or {}
        self._lanes = lanes or {}
        self._prefixes = PrefixModel()
        self._fingerprints: dict[str, str] = {}
        self._charged: dict[tuple[str, int], int] = {}
        """(address key, first draw) of requests that are paid for, nominally -> how many completions each got."""
        self._ordinals = count(1)

    async def prepare(self) -> None:
        """Learn the fingerprints, so that `generate` allots its draws before it waits for anything.

        Raises:
            SetupError, UnknownNameError: A model cannot be opened.
        """
        for name, model in self.models.items():
            self._fingerprints[name] = await model.fingerprint()

    def take_up(self, rows: Sequence[CallRow], bodies: Mapping[str, str]) -> None:
        """Go on with a run that has these rows in the ledger: what it spent counts, and nothing is charged again.

        Args:
            rows: The run's rows.
            bodies: The prompts by their requests' hashes, for the model of the prefix cache.
        """
        for row in rows:
            self.nominal[row.model] += row.nominal
            self.billed[row.model] += row.billed
            self.bound[row.model] += row.bound
            if row.nominal.calls:
                address = Address(stream=self.stream, fingerprint=row.fingerprint, request=row.request)
                self._charged[address.key, _first_draw(row.id)] = row.nominal.calls
                if row.request in bodies:
                    self._cached_share(row.model, row.step, body_text(bodies[row.request]))
        self.purse.settle(0, total(row.nominal for row in rows))
        self._ordinals = count(1 + max((row.ordinal for row in rows), default=0))

    def at(self, drawn: Mapping[str, int]) -> RunClient:
        """The same client at a place of the run where so many draws were handed out; accounts and budget are shared."""
        there = copy(self)
        there.drawn = Counter(drawn)
        return there

    async def generate(
        self,
        name: str,
        request: Request,
        *,
        path: str,
        on_token: TokenSink | None = None,
        on_restart: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """`request.n` completions of the model `name`, committed before they are returned.

        `on_restart` is told the index of a completion whose tokens so far are void, since its call failed.

        Raises:
            BudgetExceededError: The request does not fit; `received` holds the completions that did.
            ModelError: The model failed for good.
            StorageError: The database takes no writes: no new call is made, and what was in flight is counted.
        """
        asked = self._ask(name, request, path, on_token, on_restart)
        spec = asked.model.spec

        def most(count: int) -> Usage:
            return upper_bound(spec, request, count)

        place = (asked.address.key, asked.indices[0])
        paid = self._charged.get(place)
        asked.charged = paid is not None
        # A request that was paid for before the run broke off has what it was granted then.
        ticket, granted = await self.purse.reserve(most, request.n) if paid is None else (0, paid)
        asked.indices = asked.indices[:granted]
        spent = Usage()
        try:
            completions = await self._draw(asked)
            if paid is None:
                spent = nominal_usage(spec, completions, asked.cached_share)
            if not asked.charged:
                self.gateway.store.submit(self._row(asked, 0, asked.indices[0], nominal=spent))
        finally:
            self.purse.settle(ticket, spent)
        self._charged[place] = granted
        self.nominal[name] += spent
        if granted < request.n:
            limit = self.purse.fits(most(request.n - granted)) or next(iter(self.purse.limits))
            raise self.purse.refusal(limit, most(request.n - granted), completions)
        return completions

    def _ask(
        self,
        name: str,
        request: Request,
        path: str,
        on_token: TokenSink | None,
        on_restart: Callable[[int], None] | None,
    ) -> _Asked:
        """Give a request its bank address and its draws. No waiting in here: the order of asking decides."""
        body = request_body(request)
        address = Address(stream=self.stream, fingerprint=self._fingerprints[name], request=request_hash(body))
        lane = self._lanes.get(path, 0)
        place = f"{address.key}/{lane}"
        first = lane * LANE + self.drawn[place]
        self.drawn[place] += request.n
        return _Asked(
            name=name,
            model=self.models[name],
            request=request,
            address=address,
            body=body,
            path=path,
            ordinal=next(self._ordinals),
            indices=range(first, first + request.n),
            cached_share=self._cached_share(name, path, request_text(request)),
            on_token=on_token,
            on_restart=on_restart,
        )

    def _cached_share(self, name: str, path: str, text: str) -> float:
        block = self.models[name].spec.cache_block
        return self._prefixes.cached_share(name, path, self._before.get(path, _NONE), text, block)

    async def _draw(self, asked: _Asked) -> list[Completion]:
        """The completions of a request: from the bank, from calls in flight, and from calls of its own."""
        found: dict[int, Completion] = {}
        while missing := [index for index in asked.indices if index not in found]:
            flights = asked.model.traffic.flights
            joined = {index: flights[key] for index in missing if (key := (asked.address.key, index)) in flights}
            own = [index for index in missing if index not in joined]
            if own:
                found |= await self._fly(asked, own)
            if joined:
                await asyncio.wait(joined.values())
                # A flight that failed may have left some of its completions in the bank.
                found |= await self.gateway.store.banked(asked.address, list(joined))
        return [found[index] for index in asked.indices]

    async def _fly(self, asked: _Asked, indices: Sequence[int]) -> dict[int, Completion]:
        """Completions from the bank, the others by calls of our own; identical requests meanwhile join them.

        The bank is searched under our own flight: where that takes its time (a server's database), a call of somebody
        else that ended in between would be neither seen in the bank nor in the air, and made again.
        """
        flights = asked.model.traffic.flights
        loop = asyncio.get_running_loop()
        own = {index: loop.create_future() for index in indices}
        flights.update({(asked.address.key, index): flight for index, flight in own.items()})
        try:
            made = {} if self.fresh else await self.gateway.store.banked(asked.address, indices)
            if asked.on_token is not None:
                for index, completion in made.items():
                    asked.on_token(index - asked.indices[0], completion.text)
            if missing := [index for index in indices if index not in made]:
                made |= await self._made(asked, missing)
            for index, completion in made.items():
                own[index].set_result(completion)
            return made
        finally:
            for index, flight in own.items():
                flights.pop((asked.address.key, index), None)
                if not flight.done():
                    flight.cancel()

    async def _made(self, asked: _Asked, indices: Sequence[int]) -> dict[int, Completion]:
        """Completions by one call, or by one for each where the backend takes no `n`."""
        if asked.model.backend.capabilities.n or len(indices) == 1:
            return await self._traced(asked, indices)
        calls = (self._traced(asked, [index]) for index in indices)
        made: dict[int, Completion] = {}
        for part in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(part, BaseException):
                raise part
            made |= part
        return made

    async def _traced(self, asked: _Asked, indices: Sequence[int]) -> dict[int, Completion]:
        """`_call`, in a span of its own where tracing is on."""
        if telemetry.tracer is None:
            return await self._call(asked, indices)
        with telemetry.call_span(asked.name, asked.model.spec, asked.request, len(indices)) as span:
            made = await self._call(asked, indices)
            telemetry.answered(span, made.values())
            return made

    async def _call(self, asked: _Asked, indices: Sequence[int]) -> dict[int, Completion]:
        """Call until every index is there; a reply with fewer choices than asked is followed by a call for the rest."""
        made: dict[int, Completion] = {}
        attempt, most = 0, asked.model.spec.retries
        while wanted := [index for index in indices if index not in made]:
            attempt += 1
            try:
                # Nearly every call succeeds at once; tenacity's bookkeeping starts with the first failure.
                made |= await self._attempt(asked, wanted, attempt)
            except ModelError as error:
                if not error.retryable or most == 1:
                    raise
                await pause_after(error)
                async for trial in retrying(most - 1):
                    with trial:
                        attempt += 1
                        made |= await self._attempt(asked, wanted, attempt)
        return made

    async def _attempt(self, asked: _Asked, indices: Sequence[int], attempt: int) -> dict[int, Completion]:
        """One call: reserved, made, committed."""
        spec, gateway = asked.model.spec, self.gateway

        def most(count: int) -> Usage:
            return upper_bound(spec, asked.request, count)

        async with asked.model.traffic.limiter:
            gateway.store.raise_if_failed()
            ticket, granted = await self.account.reserve(most, len(indices))
            spent = Usage()
            started = time.time()
            try:
                if granted < len(indices):
                    bound = most(len(indices))
                    limit = self.account.fits(bound) or "calls"
                    raise self.account.refusal(limit, bound)
                seeds = [draw_seed(asked.address, index) for index in indices]
                sink = _positions(asked, indices)
                request = asked.request
                if request.n != len(indices):
                    request = replace(request, n=len(indices))
                completions = await asked.model.backend.generate(request, seeds, sink)
                if not completions:
                    raise BadResponseError("the model sent no completion", where=spec.model)
            except (ModelError, asyncio.CancelledError) as error:
                outcome: Outcome = error.outcome if isinstance(error, ModelError) else "unknown"
                spent = most(len(indices)) if outcome == "unknown" else Usage()
                self.bound[asked.name] += spent
                reason = str(error) or "cancelled"
                row = self._row(asked, attempt, indices[0], bound=spent, outcome=outcome, error=reason, started=started)
                gateway.store.submit(row)
                if asked.on_restart is not None:
                    for index in indices:
                        asked.on_restart(index - asked.indices[0])
                raise
            else:
                spent = _billed(spec, completions, time.time() - started)
                return await self._commit(asked, attempt, indices, completions, spent, started)
            finally:
                self.account.settle(ticket, spent)

    async def _commit(
        self,
        asked: _Asked,
        attempt: int,
        indices: Sequence[int],
        completions: Sequence[Completion],
        billed: Usage,
        started: float,
    ) -> dict[int, Completion]:
        """Write what came before anybody sees it."""
        prompt = max(completion.prompt_tokens for completion in completions)
        made = {
            index: replace(completion, prompt_tokens=prompt, id=asked.address.completion_id(index))
            for index, completion in zip(indices, completions, strict=False)
        }
        nominal = Usage()
        if len(made) == len(asked.indices) and not asked.charged:
            nominal = nominal_usage(asked.model.spec, list(made.values()), asked.cached_share)
            asked.charged = True
        row = self._row(asked, attempt, indices[0], nominal=nominal, billed=billed, received=len(made), started=started)
        now = row.ended
        rows = [
            CompletionRow(address=asked.address, index=index, completion=completion, created=now)
            for index, completion in made.items()
        ]
        try:
            if self.gateway.new_request(asked.name, asked.address):
                request = RequestRow(hash=asked.address.request, model=asked.name, body=asked.body)
                await self.gateway.store.write(request, *rows, row)
            else:
                await self.gateway.store.write(*rows, row)
        except StorageError as error:
            lost = f"{len(made)} completions in flight ({billed.tokens} tokens) were billed but could not be recorded"
            raise StorageError(f"{error.message}; {lost}", where=error.where) from error
        self.billed[asked.name] += billed
        return made

    def _row(
        self,
        asked: _Asked,
        attempt: int,
        first: int,
        *,
        nominal: Usage | None = None,
        billed: Usage | None = None,
        bound: Usage | None = None,
        received: int = 0,
        outcome: Outcome = "ok",
        error: str | None = None,
        started: float | None = None,
    ) -> CallRow:
        """A ledger row for the attempt that asked for the draw `first` and those after it."""
        now = time.time()
        return CallRow(
            id=f"{self.run}:{asked.ordinal}:{first}:{attempt}",
            run=self.run,
            step=asked.path,
            ordinal=asked.ordinal,
            attempt=attempt,
            model=asked.name,
            fingerprint=asked.address.fingerprint,
            request=asked.address.request,
            completions=received,
            nominal=nominal or _NOTHING,
            billed=billed or _NOTHING,
            bound=bound or _NOTHING,
            outcome=outcome,
            error=error,
            started=started or now,
            ended=now,
        )


_NOTHING = Usage()
_NONE: frozenset[str] = frozenset()


def _billed(spec: ModelSpec, completions: Sequence[Completion], seconds: float) -> Usage:
    """What one call cost, as the server reports it: prompts stand on the first completion only."""
    usage = Usage(
        calls=1,
        prompt_tokens=sum(completion.prompt_tokens for completion in completions),
        cached_tokens=sum(completion.cached_tokens for completion in completions),
        completion_tokens=sum(completion.completion_tokens for completion in completions),
    )
    return replace(usage, usd=spec.usd(usage), seconds=seconds)


def _positions(asked: _Asked, indices: Sequence[int]) -> TokenSink | None:
    """The caller's token sink, told positions in its own request instead of positions in this call."""
    sink = asked.on_token
    if sink is None:
        return None
    first = asked.indices[0]
    return lambda position, text: sink(indices[position] - first, text)


def _first_draw(call: str) -> int:
    """The first draw that a ledger row asked for, from the row's id."""
    return int(call.rsplit(":", 2)[1])

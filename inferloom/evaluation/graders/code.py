"""The program in the answer passes the item's tests, run in the sandbox."""

from __future__ import annotations

import ast
import asyncio
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from inferloom.core.code import code_of, split_tests
from inferloom.core.errors import UnsupportedCodeError
from inferloom.core.protocols import SandboxResult
from inferloom.evaluation.graders.base import Grader, GraderParams, register_grader
from inferloom.evaluation.item import Item
from inferloom.sandbox import default_sandbox


class CodeParams(GraderParams):
    """What a program that passes only some of the tests gets."""

    share: bool = Field(False, description="the share of the tests passed, instead of 1 for all and else 0")


@register_grader("code")
class Code(Grader):
    """1 where the program in the text passes the tests in the item's answer: Python that follows it and does not raise.

    The program is what the text has in fenced blocks, else all of it. With `share` the tests are the `assert`
    statements at the margin and the functions whose names begin with `test`. In the sandbox `isolated` a program that
    forges its own result, as if it had passed, cannot be told from one that does pass.
    """

    Params = CodeParams
    params: CodeParams

    def refusal(self, item: Item) -> str | None:
        """Why this item cannot be graded, or None."""
        if not item.answer.strip():
            return "the answer is empty; the grader `code` needs tests there"
        try:
            ast.parse(item.answer)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"the answer is not Python, which the grader `code` needs: {error}"
        if self.params.share and not split_tests(item.answer):
            return "the answer has no `assert` at the margin and no function `test...`, which `share` counts"
        return None

    def grade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right); as `agrade`, in a thread of its own, since an event loop may run in this one."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self.agrade(item, answer, text))).result()

    async def agrade(self, item: Item, answer: str | None, text: str) -> float:
        """From 0 (wrong) to 1 (right).

        Raises:
            UnsupportedCodeError: The sandbox cannot run the program, which says nothing about whether it is right.
        """
        program = code_of(text or answer or "")
        if program is None:
            return 0.0
        tests = split_tests(item.answer) if self.params.share else [item.answer]
        sandbox = default_sandbox()
        results = await asyncio.gather(*[sandbox.run(f"{program}\n\n{test}\n") for test in tests])
        counted = [result for result in results if result.outcome != "unsupported"]
        if not counted:
            raise _unsupported(item, results[0])
        return sum(result.outcome == "ok" for result in counted) / len(counted)


def _unsupported(item: Item, result: SandboxResult) -> UnsupportedCodeError:
    return UnsupportedCodeError(
        f"the sandbox cannot run the program for item `{item.id}` ({result.error}); "
        "INFERLOOM_SANDBOX=isolated runs all of Python on Linux"
    )

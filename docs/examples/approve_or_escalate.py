"""An application: take a quick agent's answer when it is confident, else ask a stronger one.

python -m docs.examples.approve_or_escalate "is this invoice plausible?"
"""

from __future__ import annotations

import asyncio
import sys

from streams import Client, TaskFailed

ENOUGH = 0.8


async def decide(client: Client, question: str) -> tuple[str, str]:
    """The answer and the agent that gave it. `calibrated_confidence`: what the stated one was worth so far, if that is known."""
    try:
        quick = await client.run("quick", {"task": question}, expires_in="10s")
        sure = quick.confidence if quick.calibrated_confidence is None else quick.calibrated_confidence
        if sure is not None and sure >= ENOUGH:
            return quick.value, "quick"
    except TaskFailed as failed:
        print(f"quick: {failed.code}", file=sys.stderr)
    return (await client.run("strong", {"task": question}, timeout="60s")).value, "strong"


async def main(question: str) -> None:
    """Print the decision."""
    async with Client() as client:
        print(*await decide(client, question))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:])))

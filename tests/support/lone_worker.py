"""`python -m tests.support.lone_worker OPTION...`: a broker and a worker beside it, for a test that runs both elsewhere.

In: options of `parallax worker`; its settings in the environment. Out: the worker's own line on stdout once it is ready. Ends on
SIGTERM with the worker's exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from streams.broker.embedded import EmbeddedBroker
from streams.broker.processes import tied_to_parent
from streams.broker.topics_admin import apply
from streams.settings import Settings
from tests.support.rig import parallax


async def main(options: list[str]) -> int:
    """The worker's exit code."""
    async with EmbeddedBroker() as broker:
        await apply(Settings(bootstrap_servers=broker.bootstrap_servers), 4)
        command = parallax("worker", "--bootstrap-servers", broker.bootstrap_servers, "-o", "json", *options)
        process = await asyncio.create_subprocess_exec(*tied_to_parent(command), env=os.environ.copy())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.terminate)
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))

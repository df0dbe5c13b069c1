"""A process that runs nothing but the statistics processor, for tests that kill it.

`python -m tests.support.stats_worker BOOTSTRAP PREFIX APP_ID INSTANCE_ID`: prints `ready` once it is, then one line a second of
points counted; stops gracefully at SIGTERM, exits 1 with the reason when statistics fail.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

from streams.settings import Settings
from streams.statistics.processor import StatsProcessor


async def main(bootstrap: str, prefix: str, app_id: str, instance_id: str) -> int:
    """Run until told to stop."""
    settings = Settings(
        bootstrap_servers=bootstrap, topic_prefix=prefix, app_id=app_id, instance_id=instance_id, session_timeout=6000
    )
    processor = StatsProcessor(settings)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    began = time.monotonic()
    await processor.start()
    failed = asyncio.create_task(processor.failed())
    stop = asyncio.create_task(stopped.wait())
    announced = False
    while not stop.done() and not failed.done():
        await asyncio.wait((failed, stop), timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        if processor.ready and not announced:
            announced = True
            print(f"ready after {time.monotonic() - began:.1f} s", flush=True)
        if announced:
            print("points", processor.counters()["points"], f"{time.process_time():.2f}", flush=True)
    await processor.stop()
    if failed.done():
        print("failed", repr(failed.exception()), flush=True)
        return 1
    failed.cancel()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:5])))

"""SQL over results, without a warehouse: the last hour's results of every agent, in DuckDB.

python -m docs.examples.duckdb_results localhost:9092
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import duckdb

from streams import Client

QUIET_S = 3.0
"""The topic has no end: what is not there after so long a silence is not waited for."""
QUERY = """
    select agent, count(*) as tasks, avg(confidence) as confidence,
           count(*) filter (where status <> 'success') as failed,
           quantile_cont(ms, 0.95) as p95_ms
    from results group by agent order by tasks desc, agent
"""


async def load(client: Client, database: duckdb.DuckDBPyConnection, since: str = "1h") -> int:
    """Read results into the table `results`; how many there were."""
    database.execute(
        "create or replace table results (id text, agent text, status text, confidence double, ms double, ended timestamptz)"
    )
    rows = []
    async with aclosing(client.results(since=since)) as results:
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    one = await anext(results)
            except TimeoutError:
                break
            rows.append(
                (one.task_id, one.agent_id, one.status, one.confidence, one.execution_time, one.timestamp / 1000)
            )
    if rows:
        database.executemany("insert into results values (?, ?, ?, ?, ?, to_timestamp(?))", rows)
    return len(rows)


async def main(servers: str) -> None:
    """Print the table."""
    database = duckdb.connect()
    async with Client(servers) as client:
        print(await load(client, database), "results")
    print(database.sql(QUERY))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"))

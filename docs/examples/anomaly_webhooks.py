"""Anomalies to Prometheus Alertmanager and to a chat's incoming webhook (Slack, Mattermost and the like).

ALERTMANAGER_URL=http://localhost:9093 SLACK_WEBHOOK_URL=https://hooks... python -m docs.examples.anomaly_webhooks
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from schemas.messages import Anomaly
from streams import Client

log = logging.getLogger("anomaly_webhooks")
TRIES = 5
OPEN_FOR = timedelta(days=1)
"""Alertmanager ends an alert that is not sent again, unless it says until when it lasts."""


def alert(anomaly: Anomaly) -> dict[str, Any]:
    """As Alertmanager's `POST /api/v2/alerts` takes it. The labels are the same when it resolves, which ends the alert."""
    begun = datetime.fromtimestamp(anomaly.detected_at / 1000, UTC)
    ends = datetime.now(UTC) if anomaly.state == "resolved" else begun + OPEN_FOR
    labels = {"alertname": f"parallax_{anomaly.type}", "agent": anomaly.agent_id, "episode": anomaly.id}
    pattern = {} if anomaly.pattern_name is None else {"pattern": anomaly.pattern_name}
    return {
        "labels": labels | pattern | {"severity": anomaly.severity},
        "annotations": {"summary": text(anomaly)},
        "endsAt": ends.isoformat(),
    } | ({} if anomaly.state == "resolved" else {"startsAt": begun.isoformat()})


def text(anomaly: Anomaly) -> str:
    """One line for people."""
    now, usual = anomaly.details.current_confidence, anomaly.details.historical_average
    figures = "" if now is None or usual is None else f": confidence {now:.2f}, usually {usual:.2f}"
    return f"{anomaly.agent_id}: {anomaly.type} {anomaly.state} ({anomaly.severity}){figures}"


async def post(http: httpx.AsyncClient, url: str, body: Any, pause_s: float = 1.0) -> None:
    """Try a few times; what is refused (4xx but 429) or stays away is logged and passed over."""
    for attempt in range(TRIES):
        try:
            answer = await http.post(url, json=body)
            if answer.is_success:
                return
            why = f"answers {answer.status_code}"
            if answer.is_client_error and answer.status_code != 429:
                break
        except httpx.HTTPError as error:
            why = repr(error)
        await asyncio.sleep(pause_s * 2**attempt)
    log.error("not delivered: %s", why)


async def forward(client: Client, alertmanager: str | None, slack: str | None, *, since: str | None = None) -> None:
    """Until cancelled. `since="1h"` repeats what may have been missed; Alertmanager takes the same alert twice as one."""
    async with httpx.AsyncClient(timeout=10.0) as http:
        async for anomaly in client.anomalies(min_severity="medium", since=since):
            if alertmanager is not None:
                await post(http, f"{alertmanager}/api/v2/alerts", [alert(anomaly)])
            if slack is not None:
                await post(http, slack, {"text": text(anomaly)})


async def main() -> None:
    """Where to is in the environment."""
    async with Client() as client:
        await forward(client, os.environ.get("ALERTMANAGER_URL"), os.environ.get("SLACK_WEBHOOK_URL"), since="10m")


if __name__ == "__main__":
    asyncio.run(main())

"""One example message of each kind, by message name: shown in the contracts and used by their tests.

They tell one story: a task for the agent `summarizer`, its answer, and what follows from it. Data only, never changed.
"""

from __future__ import annotations

from typing import Any

from schemas.dead_letter_headers import Rejection, dlq_headers

Example = dict[str, Any]

TIME = "2026-11-22T13:37:00.123Z"
TASK: Example = {
    "id": "t1", "type": "agent", "target": "summarizer", "payload": {"task": "summarize", "data": {"text": "..."}},
}  # fmt: skip
RESULT: Example = {
    "taskId": "t1", "status": "success", "result": {"summary": "..."}, "confidence": 0.93, "agentId": "summarizer",
    "executionTime": 412.5, "retries": 0, "cached": False, "timestamp": TIME, "metadata": {},
}  # fmt: skip
EPISODE = "b0c2f1d59e3a47886d21c4aa"
EXAMPLES: dict[str, Example] = {
    "Task": TASK,
    "Result": RESULT,
    "Plan": {"id": "p1", "kind": "sequential", "tasks": [TASK]},
    "PlanResult": {
        "planId": "p1", "kind": "sequential", "status": "success", "results": [{**RESULT, "planId": "p1"}],
        "executionTime": 415, "timestamp": TIME,
    },
    "Control": {"type": "cancel", "taskId": "t1"},
    "Schedule": {
        "id": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin",
        "task": {"type": "agent", "target": "summarizer", "payload": {"task": "summarize the day"}},
    },
    "AgentRegistration": {
        "id": "summarizer", "endpoint": "http://127.0.0.1:9000", "capabilities": ["summarize"],
        "limits": {"maxRequests": 100, "windowMs": 60000, "maxConcurrency": 10},
    },
    "ConfidenceDataPoint": {
        "agentId": "summarizer", "patternName": "", "taskType": "agent", "confidence": 0.93, "success": True,
        "timestamp": TIME, "executionTime": 412.5, "waitTime": 8.5, "model": "m-1", "inputTokens": 900, "outputTokens": 120,
        "totalTokens": 1020, "cost": 0.003, "taskId": "t1",
    },
    "Aggregate": {
        "agentId": "summarizer", "patternName": "", "taskType": "agent", "interval": "minute",
        "windowStart": "2026-11-22T13:37:00.000Z", "windowEnd": "2026-11-22T13:38:00.000Z", "final": True, "count": 1,
        "successCount": 1, "avgConfidence": 0.93, "minConfidence": 0.93, "maxConfidence": 0.93, "variance": 0,
        "successRate": 1, "avgExecutionTime": 412.5, "p50ExecutionTime": 412.5, "p95ExecutionTime": 412.5,
        "p99ExecutionTime": 412.5, "p10Confidence": 0.93, "p50Confidence": 0.93, "brier": 0.0049, "ece": 0.07,
        "waitTime": {"count": 1, "sum": 8.5, "mean": 8.5, "p95": 8.5},
        "cost": {"count": 1, "sum": 0.003, "mean": 0.003, "p95": 0.003},
    },
    "Anomaly": {
        "id": EPISODE, "type": "sudden_drop", "agentId": "summarizer", "severity": "high",
        "state": "firing", "detectedAt": TIME,
        "details": {
            "currentConfidence": 0.41, "historicalAverage": 0.92, "deviation": -0.51, "threshold": 0.3,
            "window": "last 5 points", "detector": "recent5", "points": [0.92, 0.93, 0.42, 0.4, 0.41, 0.43, 0.39],
        },
    },
    "AgentCalibration": {
        "agentId": "summarizer", "count": 12, "method": "curve", "table": [0.5] * 21, "successRate": 0.5, "gap": 0.2,
        "gapLow": 0.1, "gapHigh": 0.3, "brier": 0.2, "logLoss": 0.7, "calibrationError": 0.1,
        "bins": [{"count": 12, "confidence": 0.7, "successRate": 0.5, "low": 0.2, "high": 0.8}],
    },
    "Event": {
        "id": "t1/task:started", "type": "task:started", "timestamp": TIME,
        "data": {"taskId": "t1", "type": "agent", "target": "summarizer"},
    },
}  # fmt: skip
ENVELOPES: dict[str, tuple[str, str, str]] = {
    "Result": ("dispatch", "t1", "t1"),
    "PlanResult": ("plans", "p1", "p1"),
    "Aggregate": ("stats", "summarizer//agent/minute/1795354620000/0", "summarizer"),
    "Anomaly": ("stats", f"{EPISODE}/firing", "summarizer"),
    "Event": ("dispatch", "t1/task:started", "t1"),
}
"""For messages that we write: the processor in `ce_source`, the `ce_id` and the `ce_subject` of the example."""
REJECTED = '{"id":"t1","type":"agnt","target":"summarizer","payload":{}}'
"""An invalid task, and its dead letter's headers, beside its topic's name."""
REJECTION = dlq_headers(
    Rejection(
        topic="parallax.tasks",
        partition=0,
        offset=42,
        group="parallax-streams-dispatch",
        stage="validate",
        reason="type: input should be 'agent', 'pattern', 'http' or 'function', not 'agnt'",
        time=TIME,
    )
)

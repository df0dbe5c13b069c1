"""More that must hold over call logs and topics: the share of retries, secrets that show nowhere, answers that are what they say.

In: calls, results, whatever text was written. Out: a `Verdict` each, as in `predicates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.predicates import Call, Verdict


def retry_share(
    calls: Iterable[Call], share: float, floor: int, window_s: float = 10.0, *, jitter_s: float = 0.3
) -> Verdict:
    """P11 over one agent's calls: in the window that ends with a retry, retries are at most `share` of the first calls + `floor`.

    A task's first call is the one that began first. `jitter_s`: agent and worker may see a moment this far apart.
    """
    verdict = Verdict("retry share")
    known: set[str] = set()
    firsts: list[float] = []
    retries: list[float] = []
    most = 0
    for call in sorted(calls, key=lambda call: call.at):
        if call.task not in known:
            known.add(call.task)
            firsts.append(call.at)
            continue
        retries.append(call.at)
        recent = sum(at > call.at - window_s + jitter_s for at in retries)
        first = sum(at > call.at - window_s - jitter_s for at in firsts)
        most = max(most, recent)
        if recent > share * first + floor:
            verdict.breaches.append(f"{recent} retries in {window_s:g} s for {first} first calls, at {call.at:.3f}")
    verdict.figures = f"{len(firsts)} first calls, {len(retries)} retries, most in any {window_s:g} s: {most}"
    return verdict


def no_secret(secrets: Iterable[bytes], places: Mapping[str, bytes]) -> Verdict:
    """P13: none of these strings lies in any place (name to all its bytes)."""
    verdict = Verdict("secrets")
    hidden = list(secrets)
    for name, content in places.items():
        verdict.breaches += [f"{name} holds secret number {n}" for n, secret in enumerate(hidden) if secret in content]
    verdict.figures = f"{len(hidden)} secrets, {len(places)} places, {sum(map(len, places.values()))} bytes"
    return verdict


def strict(results: Iterable[Mapping[str, Any]]) -> Verdict:
    """P15: a success has a finite confidence within [0, 1]; anything else has an error with a code and a sentence."""
    verdict = Verdict("strict results")
    counts = {"success": 0, "error": 0}
    for result in results:
        confidence, error = result.get("confidence"), result.get("error")
        if result.get("status") == "success":
            counts["success"] += 1
            if not (isinstance(confidence, int | float) and math.isfinite(confidence) and 0 <= confidence <= 1):
                verdict.breaches.append(f"{result['taskId']}: confidence {confidence!r}")
        else:
            counts["error"] += 1
            if not (isinstance(error, Mapping) and error.get("code") and error.get("message")):
                verdict.breaches.append(f"{result['taskId']}: {result.get('status')} with error {error!r}")
    verdict.figures = f"{counts['success']} successes, {counts['error']} errors"
    return verdict

"""A model server on LitServe's OpenAISpec, which serves models of one's own: it lists no models and notices no hang-up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import litserve
from guard import PORT, act, guarded

ANSWER = json.dumps({"value": "yes", "confidence": 0.93, "why": "so"})


class Model(litserve.LitAPI):
    """Does what the newest message says; the answer comes in pieces."""

    def setup(self, device: Any) -> None:
        """Nothing to load."""

    async def predict(self, request: Any) -> AsyncIterator[str]:
        """One piece after the other."""
        await act(request.messages[-1].content)
        for start in range(0, len(ANSWER), 7):
            yield ANSWER[start : start + 7]


if __name__ == "__main__":
    api = Model(enable_async=True, spec=litserve.OpenAISpec())
    server = litserve.LitServer(api, accelerator="cpu", middlewares=[guarded], timeout=60)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning")

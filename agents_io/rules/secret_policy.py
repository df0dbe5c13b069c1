"""Which secrets a registration may reference. Pure.

In: a registration, and what the operator allows. Out: None, or `Unsupported`. Any producer that may write to the topic
`agents` names both a secret and where it is sent. Without this limit, registering an agent could send the worker's own
Kafka password to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from posixpath import normpath

from agents_io.errors import Unsupported
from schemas.messages import AgentRegistration

OWN_PREFIX = "PARALLAX_"


class SecretPolicy:
    """`env`: patterns of variables, such as `AGENT_*`; never the pipeline's own. `directory`: where files must be;
    None: anywhere.

    `own`: the worker's own tokens, as `env:NAME` or `file:PATH`, which no registration may use.
    """

    def __init__(self, env: Sequence[str] = ("*",), directory: str | None = None, own: Iterable[str] = ()) -> None:
        self._env = tuple(env)
        self._below = None if directory is None else normpath(directory).rstrip("/") + "/"
        split = [reference.partition(":") for reference in own]
        self._own_env = frozenset(name for kind, _, name in split if kind == "env")
        self._own_files = frozenset(normpath(name) for kind, _, name in split if kind == "file")

    def check(self, agent: AgentRegistration) -> None:
        """Raises `Unsupported` if the registration references a secret that is not allowed.

        >>> agent = AgentRegistration(id="a", endpoint="http://h", auth={"env": "PARALLAX_KAFKA__SASL_PASSWORD"})
        >>> SecretPolicy().check(agent)
        Traceback (most recent call last):
        agents_io.errors.Unsupported: auth: the variable PARALLAX_KAFKA__SASL_PASSWORD may not be used (setting secrets.env)
        """
        auth = agent.auth
        if auth is not None and auth.env is not None:
            own = auth.env.upper().startswith(OWN_PREFIX) or auth.env in self._own_env
            if own or not any(fnmatchcase(auth.env, pattern) for pattern in self._env):
                raise Unsupported(f"auth: the variable {auth.env[:80]} may not be used (setting secrets.env)")
        self._check_files(agent)

    def _check_files(self, agent: AgentRegistration) -> None:
        paths = [agent.auth.file] if agent.auth is not None and agent.auth.file is not None else []
        tls = (agent.metadata or {}).get("tls")
        if isinstance(tls, dict):
            paths += [path for path in tls.values() if isinstance(path, str)]
        for path in paths:
            if normpath(path) in self._own_files or not normpath(path).startswith(self._below or ""):
                raise Unsupported(f"the file {path[:80]} may not be used (setting secrets.directory)")

"""A broker as production has it: TLS, SCRAM-SHA-512 and ACLs, on loopback, and ways to change who may do what.

In: nothing. Out: a listener with a good certificate, three with bad ones, users made when the storage is formatted, `may` and
`may_not`. Whoever has no ACL is refused. A plain listener is left for setting up: there everybody is the super user.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from schemas.access import Grant
from streams.broker.processes import free_port
from streams.settings import Settings
from tests.support.kafka import KafkaCluster

TLS = Path(__file__).parent / "tls"
AUTHORITY = TLS / "authority.pem"
STRANGER = TLS / "stranger.pem"
CERTIFICATES = {"GOOD": "server", "EXPIRED": "expired", "ELSEWHERE": "elsewhere"}
"""By listener; the last two are their own authority."""
LISTENERS = (*CERTIFICATES, "PLAINSASL")
_WIRE = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional-id": ResourceType.TRANSACTIONAL_ID}
SEEN_TIMEOUT_S = 10.0
_LINE = re.compile(
    r"Principal = User:(?P<user>\S+) is (?P<word>Allowed|Denied) operation = (?P<operation>\w+) .*on resource = (?P<resource>\S+)"
)
_RULE = re.compile(
    r"StandardAcl[(\[]resourceType=(?P<kind>\w+), resourceName=(?P<name>[^,]+), "
    r"patternType=(?P<pattern>\w+).*operation=(?P<operation>\w+)"
)


def password(user: str) -> str:
    """What the user shows."""
    return f"{user}-secret"


def secured(users: Iterable[str]) -> SecuredCluster:
    """One broker that knows these users; not started."""
    names = [f"SCRAM-SHA-512=[name={user},password={password(user)},iterations=4096]" for user in users]
    return SecuredCluster(
        format_options=[word for name in names for word in ("--add-scram", name)],
        java_options=["-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=debug"],
    )


class Asked(NamedTuple):
    """What the broker was asked to let a user do: what it said, and the right it went by."""

    allowed: bool
    what: str
    right: Grant | None


class SecuredCluster(KafkaCluster):
    """`ports` by listener. `bootstrap_servers` is the plain one, of the super user."""

    def start(self) -> SecuredCluster:
        """As any cluster."""
        self.ports = {name: free_port() for name in LISTENERS}
        super().start()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        return self

    def at(self, listener: str = "GOOD", host: str = "127.0.0.1") -> str:
        """The address of a listener."""
        return f"{host}:{self.ports[listener]}"

    def properties(self, node: Any) -> str:
        plain, controller = f"PLAINTEXT://{node.address}", f"CONTROLLER://127.0.0.1:{node.controller_port}"
        ours = [f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()]
        protocols = [f"{name}:{'SASL_PLAINTEXT' if name == 'PLAINSASL' else 'SASL_SSL'}" for name in LISTENERS]
        lines = {
            "listeners": ",".join([plain, controller, *ours]),
            "advertised.listeners": ",".join([plain, *ours]),
            "listener.security.protocol.map": ",".join(["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *protocols]),
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
            "connection.failed.authentication.delay.ms": 10,
        }
        for name in LISTENERS:
            scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            lines[f"listener.name.{name.lower()}.scram-sha-512.sasl.jaas.config"] = scram
        for name, file in CERTIFICATES.items():
            path = node.home / f"{file}.store.pem"
            path.write_text((TLS / f"{file}.key").read_text() + (TLS / f"{file}.pem").read_text(), "utf-8")
            lines[f"listener.name.{name.lower()}.ssl.keystore.type"] = "PEM"
            lines[f"listener.name.{name.lower()}.ssl.keystore.location"] = path
        return super().properties(node) + "".join(f"{name}={value}\n" for name, value in lines.items())

    def may(self, user: str, grants: Iterable[Grant]) -> None:
        """Give the user these rights; returns once the broker goes by them."""
        given = [_binding(user, grant) for grant in grants]
        for done in self._admin.create_acls(given).values():
            done.result(SEEN_TIMEOUT_S)
        self._until(user, lambda known: set(map(_key, given)) <= known)

    def may_not(self, user: str, grants: Iterable[Grant]) -> None:
        """Take these rights away; returns once the broker goes by that."""
        taken = [_binding(user, grant) for grant in grants]
        for done in self._admin.delete_acls([_filter(binding) for binding in taken]).values():
            done.result(SEEN_TIMEOUT_S)
        self._until(user, lambda known: not set(map(_key, taken)) & known)

    def create(self, topic: str) -> None:
        """A topic that is none of the table's."""
        for done in self._admin.create_topics([NewTopic(topic, 1, 1)]).values():
            done.result(SEEN_TIMEOUT_S)

    def audit(self, user: str) -> set[Asked]:
        """All that this user was allowed or refused since the start."""
        found = set()
        with self.nodes[0].log.open(encoding="utf-8", errors="replace") as log:
            for text in log:
                if (line := _LINE.search(text)) is None or line["user"] != user:
                    continue
                right = None
                if (rule := _RULE.search(text)) is not None:
                    kind, operation = (rule[name].lower().replace("_", "-") for name in ("kind", "operation"))
                    right = Grant(kind, rule["name"], _camel(operation), rule["pattern"] == "PREFIXED")  # type: ignore[arg-type]
                found.add(Asked(line["word"] == "Allowed", f"{line['operation']} {line['resource']}", right))
        return found

    def _until(self, user: str, fits: Any) -> None:
        end = time.monotonic() + SEEN_TIMEOUT_S
        anything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY,
            AclPermissionType.ANY,
        )  # fmt: skip
        while not fits({_key(found) for found in self._admin.describe_acls(anything).result(SEEN_TIMEOUT_S)}):
            assert time.monotonic() < end, "the broker does not take up the ACLs"
            time.sleep(0.02)


def kafka_settings(user: str, **fields: Any) -> dict[str, Any]:
    """The `kafka` section of a user's settings."""
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": user,
        "sasl_password": password(user),
        "ssl_cafile": str(AUTHORITY),
    } | fields


def environment(user: str, **fields: Any) -> dict[str, str]:
    """The same as a process takes it."""
    return {f"PARALLAX_KAFKA__{name.upper()}": str(value) for name, value in kafka_settings(user, **fields).items()}


def settings_of(cluster: SecuredCluster, user: str, prefix: str, **fields: Any) -> Settings:
    """Settings of a user at the good listener."""
    given = {"bootstrap_servers": cluster.at(), "topic_prefix": prefix, "app_id": prefix.rstrip(".")}
    return Settings.model_validate(given | {"kafka": kafka_settings(user)} | fields)


def _binding(user: str, grant: Grant) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if grant.prefixed else ResourcePatternType.LITERAL
    operation = AclOperation[_upper(grant.operation)]
    return AclBinding(_WIRE[grant.resource], grant.name, pattern, f"User:{user}", "*", operation,
                      AclPermissionType.ALLOW)  # fmt: skip


def _filter(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(*_key(binding))


def _key(binding: AclBinding) -> tuple[Any, ...]:
    return (binding.restype, binding.name, binding.resource_pattern_type, binding.principal, binding.host,
            binding.operation, binding.permission_type)  # fmt: skip


def _camel(operation: str) -> str:
    """`describe-configs` -> `DescribeConfigs`."""
    return "".join(word.capitalize() for word in operation.split("-"))


def _upper(operation: str) -> str:
    """`DescribeConfigs` -> `DESCRIBE_CONFIGS`."""
    return "".join(f"_{c}" if c.isupper() else c.upper() for c in operation).lstrip("_")

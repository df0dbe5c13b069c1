"""docker-compose.yml without Docker: its broker from jars with the settings of its environment, its services as they are written.

In: the file. Out: the services as dicts, a broker, durations in seconds. Names of containers become this machine, fixed ports
become free ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from schemas.times import parse_duration
from streams.broker.processes import free_port
from tests.support.kafka import Broker, KafkaCluster

FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"


def document() -> dict[str, Any]:
    """The whole file."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return found


def services() -> dict[str, dict[str, Any]]:
    """Every service by name."""
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def seconds(text: str) -> float:
    """A duration of the file."""
    return parse_duration(text) / 1000


def property_name(variable: str) -> str:
    """What the official image makes of a variable.

    >>> property_name("KAFKA_AUTO_CREATE_TOPICS_ENABLE"), property_name("KAFKA_A__B___C")
    ('auto.create.topics.enable', 'a_b-c')
    """
    name = variable.removeprefix("KAFKA_").lower()
    return name.replace("___", "\0").replace("__", "\1").replace("_", ".").replace("\1", "_").replace("\0", "-")


@dataclass
class ComposedKafka(KafkaCluster):
    """The service `kafka`. `inside`: where the other containers find it; `bootstrap_servers` is what the host sees."""

    inside: str = field(default="", init=False)

    def properties(self, node: Broker) -> str:
        ports = {"29093": node.controller_port, "9092": node.port, "19092": free_port()}
        self.inside = f"127.0.0.1:{ports['19092']}"
        lines = {}
        for variable, value in services()["kafka"]["environment"].items():
            if variable == "CLUSTER_ID":
                self._cluster_id = value
                continue
            for port, free in ports.items():
                value = value.replace(f":{port}", f":{free}")
            lines[property_name(variable)] = value.replace("kafka:", "127.0.0.1:").replace("://:", "://127.0.0.1:")
        lines["log.dirs"] = str(node.home / "data")
        return "".join(f"{name}={value}\n" for name, value in lines.items())

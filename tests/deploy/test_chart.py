"""The Helm chart: rendered by Helm, checked against Kubernetes' own schemas, and true to what workers really read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.topics import DEFAULT_PREFIX, TOPICS
from streams.cli.process import AFTER_DRAIN_S
from streams.exposure import open_addresses
from streams.rules.agents.agents_file_diff import parse
from streams.settings import Settings, load
from streams.tokens import own_tokens
from tests.support.charts import ROOT, VALUES, Json, environment, lint, of_kind, pods, render, unrestricted, values

pytestmark = pytest.mark.deploy

KUBERNETES = ("1.28", "1.31", "1.34", "1.37")
CUSTOM = {
    "ScaledObject": "keda.sh/v1alpha1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
}
FIELDS = {"metadata.name": "POD-7", "metadata.namespace": "px", "password": "secret"}


@pytest.fixture(params=sorted(VALUES))
def given(request: pytest.FixtureRequest) -> Json:
    """Each of the example files."""
    return values(request.param)


@pytest.fixture
def objects(given: Json) -> list[Json]:
    """What Helm makes of it."""
    return render(given)


def started(objects: list[Json], directory: Path) -> dict[str, Settings]:
    """The settings each StatefulSet's pods start with, read by the worker's own code."""
    found = {}
    for name, one in of_kind(objects, "StatefulSet").items():
        [container] = one["spec"]["template"]["spec"]["containers"]
        assert container["workingDir"] == "/etc/parallax"
        volumes = {volume["name"]: volume for volume in one["spec"]["template"]["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        config = of_kind(objects, "ConfigMap")[volumes[mounts["/etc/parallax"]]["configMap"]["name"]]
        (directory / "parallax.toml").write_text(config["data"]["parallax.toml"], "utf-8")
        found[name] = load(None, environment(container, FIELDS | {"metadata.name": f"{name}-0"}), directory)
    return found


def test_helm_finds_no_fault(given: Json) -> None:
    """No warning either; a missing icon is no fault."""
    assert [found for found in lint(given) if found["severity"] > 1] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_would_take_every_object(objects: list[Json], version: str) -> None:
    """By the schemas of several versions, without unknown fields."""
    import kubernetes_validate

    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_objects_that_kubernetes_does_not_know_are_of_the_versions_their_operators_read(objects: list[Json]) -> None:
    """Their own schemas cannot be had here."""
    for one in objects:
        assert one["kind"] not in CUSTOM or one["apiVersion"] == CUSTOM[one["kind"]]


def test_no_pod_may_more_than_the_restricted_standard_allows(objects: list[Json]) -> None:
    """Nor talk to Kubernetes, nor be told of Services: one named parallax would set PARALLAX_PORT, an unknown setting."""
    found = dict(pods(objects))
    assert len(found) >= 2
    for name, spec in found.items():
        assert unrestricted(spec) == [], name
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False


def test_a_worker_reads_what_the_chart_writes(given: Json, objects: list[Json], tmp_path: Path) -> None:
    """Settings are those of the values, roles those of the group, and the name is the pod's."""
    groups = {name: group for name, group in given.get("groups", {}).items() if group} or {
        "worker": {"roles": ["dispatch", "plans", "schedules", "stats"]}
    }
    found = started(objects, tmp_path)
    assert {name.removeprefix("r-parallax-streams-") for name in found} == set(groups)
    for name, settings in found.items():
        assert settings.bootstrap_servers == given["settings"]["bootstrap_servers"]
        assert list(settings.roles) == groups[name.removeprefix("r-parallax-streams-")]["roles"]
        assert settings.instance_id == f"{name}-0"
        assert settings.session_timeout == 30_000
        assert (settings.web_host, settings.grpc_host) == ("0.0.0.0", "0.0.0.0")
        assert settings.secrets.env == ()
        wanted = given.get("kafkaPassword", {}).get("secretName")
        password = settings.kafka.sasl_password
        assert (None if password is None else password.get_secret_value()) == ("secret" if wanted else None)
        for section, leaves in given["settings"].items():
            if isinstance(leaves, dict):
                own = getattr(settings, section).model_dump(mode="json")
                assert {name: own[name] for name in leaves} == leaves


def test_workers_find_each_other_at_the_address_they_tell(objects: list[Json], tmp_path: Path) -> None:
    """The name of a pod below the headless Service that governs it, which shows pods that are not ready too."""
    services = of_kind(objects, "Service")
    for name, settings in started(objects, tmp_path).items():
        spec = of_kind(objects, "StatefulSet")[name]["spec"]
        service = services[spec["serviceName"]]["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True
        labels = spec["template"]["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        host = f"{name}-0.{spec['serviceName']}.px.svc.cluster.local"
        assert settings.web_advertise == f"{host}:{settings.web_port}"
        assert settings.grpc_advertise == f"{host}:{settings.grpc_port}"
        ports = {port["name"]: port["port"] for port in service["ports"]}
        assert ports == {"web": settings.web_port, "grpc": settings.grpc_port}
        # With its hash a StatefulSet's name must fit a label, a pod's a host's name.
        assert len(name) <= 52


def test_a_service_for_users_leads_to_ports_that_its_workers_have(objects: list[Json]) -> None:
    """Only workers that dispatch listen for gRPC."""
    for name, one in of_kind(objects, "StatefulSet").items():
        [container] = one["spec"]["template"]["spec"]["containers"]
        named = {port["name"] for port in container["ports"]}
        service = of_kind(objects, "Service")[name]["spec"]
        assert {port["targetPort"] for port in service["ports"]} == named
        roles = {variable["name"]: variable.get("value") for variable in container["env"]}["PARALLAX_ROLES"]
        assert ("grpc" in named) == ("dispatch" in roles)


def test_a_pod_is_given_more_time_than_a_worker_takes_to_stop(objects: list[Json], tmp_path: Path) -> None:
    """Else it is killed in its last commits."""
    for name, settings in started(objects, tmp_path).items():
        spec = of_kind(objects, "StatefulSet")[name]["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] > settings.dispatch.stop_timeout / 1000 + AFTER_DRAIN_S


def test_probes_ask_what_a_worker_serves(objects: list[Json]) -> None:
    """A start that lasts long is not ended: liveness asks nothing of statistics or brokers."""
    for one in of_kind(objects, "StatefulSet").values():
        [container] = one["spec"]["template"]["spec"]["containers"]
        asked = {
            kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 60


def test_agents_of_the_file_can_be_read_and_their_tokens_are_mounted() -> None:
    """As a worker reads agents.toml; a directory is mounted whole, since a single file of a ConfigMap never changes."""
    objects = render(values("strimzi"))
    config = of_kind(objects, "ConfigMap")["r-parallax-streams-agents"]
    [agent] = parse(config["data"]["agents.toml"].encode(), "mark").values()
    auth = agent.wire()["auth"]
    [one] = of_kind(objects, "StatefulSet").values()
    mounts = {mount["mountPath"]: mount for mount in one["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert auth["file"].rpartition("/")[0] in mounts
    assert "/etc/parallax-agents" in mounts
    assert not any("subPath" in mount for mount in mounts.values())


def test_settings_restart_pods_and_agents_do_not() -> None:
    """A change of agents.toml is read by running workers; a new version of the chart alone replaces no pod either."""

    def template(**more: Any) -> Json:
        [one] = of_kind(render(values("one") | {"agentsToml": "[agents.a]\n"} | more), "StatefulSet").values()
        found: Json = one["spec"]["template"]
        return found

    assert template() == template(agentsToml="[agents.b]\n")
    assert template() != template(settings=values("one")["settings"] | {"log_level": "debug"})
    assert "helm.sh/chart" not in template()["metadata"]["labels"]


def test_topics_are_created_before_anything_else_and_with_all_it_needs() -> None:
    """Hooks run before the release's own objects: what the job mounts must be hooks, or Secrets that are there."""
    objects = render(values("one") | {"topics": {"partitions": 12, "replicationFactor": 3}})
    [job] = of_kind(objects, "Job").values()
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == ["topics", "apply", "--partitions=12", "--replication-factor=3"]
    hooks = {name: one["metadata"].get("annotations", {}) for name, one in of_kind(objects, "ConfigMap").items()}
    for volume in spec["volumes"]:
        if "configMap" in volume:
            hook = hooks[volume["configMap"]["name"]]
            assert hook["helm.sh/hook"] == job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert int(hook["helm.sh/hook-weight"]) < int(job["metadata"]["annotations"]["helm.sh/hook-weight"])


def test_keda_looks_at_topics_there_are_and_scales_within_their_partitions() -> None:
    """For each role what it reads; `tests/deploy/test_compose.py` holds the groups' names against a broker's."""
    scaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 16}
    groups = {role: {"roles": [role], "autoscaling": scaling} for role in ("dispatch", "plans", "schedules", "stats")}
    objects = render(values("roles") | {"groups": groups | {"worker": None}})
    names = {DEFAULT_PREFIX + topic.name for topic in TOPICS}
    found = of_kind(objects, "ScaledObject")
    assert found.keys() == of_kind(objects, "StatefulSet").keys()
    assert len(found) == 4
    for name, one in found.items():
        assert one["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name}
        assert "replicas" not in of_kind(objects, "StatefulSet")[name]["spec"]
        assert (one["spec"]["minReplicaCount"], one["spec"]["maxReplicaCount"]) == (2, 16)
        for trigger in one["spec"]["triggers"]:
            metadata = trigger["metadata"]
            assert all(isinstance(value, str) for value in metadata.values())
            assert metadata["topic"] in names
            assert metadata["offsetResetPolicy"] == "earliest"
            assert metadata["allowIdleConsumers"] == "false"


def test_prometheus_scrapes_every_worker_once_in_a_job_that_the_alerts_know() -> None:
    """By the headless Service, which shows pods that are not ready too."""
    objects = render(values("strimzi") | {"fullnameOverride": "px"})
    [monitor] = of_kind(objects, "ServiceMonitor").values()
    wanted = monitor["spec"]["selector"]["matchLabels"]
    chosen = [
        one for one in of_kind(objects, "Service").values() if wanted.items() <= one["metadata"]["labels"].items()
    ]
    [service] = chosen
    assert service["spec"]["clusterIP"] == "None"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert "parallax" in service["metadata"]["labels"][monitor["spec"]["jobLabel"]]


def test_alerts_and_dashboard_are_those_of_this_folder() -> None:
    """The chart holds no second copy."""
    objects = render(values("strimzi"))
    [rule] = of_kind(objects, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text("utf-8"))
    board = of_kind(objects, "ConfigMap")["r-parallax-streams-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["parallax.json"]) == json.loads(
        (ROOT / "deploy/grafana/parallax.json").read_text("utf-8")
    )


def test_no_pod_starts_without_asking_for_tokens(given: Json, objects: list[Json], tmp_path: Path) -> None:
    """By the worker's own judgement; the tokens lie where the settings say, in Secrets, out of reach of registrations."""
    found = started(objects, tmp_path)
    for name, settings in found.items():
        assert open_addresses(settings) == []
        spec = of_kind(objects, "StatefulSet")[name]["spec"]["template"]["spec"]
        mounts = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
        secrets = {mounts[one["name"]]: one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
        assert secrets["/secrets/web"] == given["webTokens"]["secretName"]
        assert secrets["/secrets/gateway"] == given["gatewayTokens"]["secretName"]
        for reference in own_tokens(settings):
            folder = reference.removeprefix("file:").rpartition("/")[0]
            assert folder in secrets
            assert not folder.startswith(str(settings.secrets.directory))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"webTokens": {"secretName": ""}}, "webTokens.secretName: is missing"),
        ({"gatewayTokens": {"secretName": ""}}, "gatewayTokens.secretName: is missing"),
        ({"gatewayTokens": {"secretName": ""}, "groups": {"worker": {"roles": ["stats"]}}}, None),
        (
            {"webTokens": {"secretName": ""}, "web_auth": {"proxy_header": "X-User", "proxy_networks": "10.0.0.0/8"}},
            None,
        ),
        ({"gatewayTokens": {"secretName": ""}, "grpc_tls": {"cert_file": "/c", "client_ca_file": "/a"}}, None),
        ({"webTokens": {"secretName": ""}, "gatewayTokens": {"secretName": ""}, "insecure": True}, None),
    ],
)
def test_the_chart_and_the_worker_agree_on_what_is_open(more: Json, said: str | None, tmp_path: Path) -> None:
    """What the chart renders starts; what a worker would refuse, the chart refuses first, with the command that helps."""
    import helm_python

    own = {name: more[name] for name in more if name in ("web_auth", "grpc_tls", "insecure")}
    given = values("one") | {name: more[name] for name in more if name not in own}
    given["settings"] = given["settings"] | own
    if said is not None:
        with pytest.raises(helm_python.HelmError, match=said):
            render(given)
        return
    for settings in started(render(given), tmp_path).values():
        assert settings.insecure or open_addresses(settings) == []


def test_prometheus_sends_the_token() -> None:
    """As the operator reads it out of the Secret."""
    [monitor] = of_kind(render(values("strimzi")), "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "parallax-web", "key": "view"}}


def test_keda_speaks_to_a_guarded_broker_as_workers_do() -> None:
    """Same mechanism, and the credentials of a TriggerAuthentication."""
    given = values("strimzi") | {
        "groups": {"worker": {"roles": ["stats"], "autoscaling": {"enabled": True, "authenticationRef": "kafka"}}}
    }
    [one] = of_kind(render(given), "ScaledObject").values()
    [trigger] = one["spec"]["triggers"]
    assert (trigger["metadata"]["sasl"], trigger["metadata"]["tls"]) == ("scram_sha512", "enable")
    assert trigger["authenticationRef"] == {"name": "kafka"}
    given["settings"] = given["settings"] | {
        "kafka": {"security_protocol": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM", "sasl_aws_region": "eu-central-1"}
    }
    [one] = of_kind(render(given), "ScaledObject").values()
    told = one["spec"]["triggers"][0]["metadata"]
    assert (told["sasl"], told["saslTokenProvider"], told["awsRegion"]) == (
        "oauthbearer",
        "aws_msk_iam",
        "eu-central-1",
    )


def test_nobody_connects_but_workers_and_who_is_named() -> None:
    """Tokens are asked for besides."""
    [policy] = of_kind(render(values("one")), "NetworkPolicy").values()
    [rule] = policy["spec"]["ingress"]
    [peer] = rule["from"]
    assert peer["podSelector"]["matchLabels"]["parallax.io/worker"] == "true"
    [policy] = of_kind(render(values("strimzi")), "NetworkPolicy").values()
    assert [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["ingress"]] == [
        [8080, 50051],
        [8080],
        [50051],
    ]
    blocked = [out for rule in policy["spec"]["egress"] for to in rule["to"] for out in to["ipBlock"]["except"]]
    assert "169.254.169.254/32" in blocked


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {}}, "bootstrap_servers"),
        ({"settings": {"bootstrap_servers": "k:1", "kafka": {"sasl_password": "x"}}}, "/settings/kafka"),
        ({"settings": {"bootstrap_servers": "k:1", "roles": "stats"}}, "roles"),
        ({"settings": {"bootstrap_servers": "k:1", "retry": {"a": {"b": 1}}}}, "/settings/retry"),
        ({"groups": {"worker": None}}, "/groups|at least one"),
        ({"groups": {"worker": {"roles": ["cook"]}}}, "roles"),
        ({"groups": {"worker": {"roles": []}}}, "roles"),
        ({"groups": {"a-name-that-is-too-long": {"roles": ["stats"]}}}, "a-name-that-is-too-long"),
        ({"groups": {"worker": {"replicas": 9}}}, "topics.partitions is 8"),
        ({"groups": {"worker": {"autoscaling": {"enabled": True, "maxReplicas": 9}}}}, "topics.partitions is 8"),
        ({"groups": {"worker": {"autoscaling": {"enabled": True, "minReplicas": 5}}}}, "minReplicas is more"),
        ({"groups": {"worker": {"autoscaling": {"enabled": True, "minReplicas": 0}}}}, "minReplicas"),
        (
            {
                "groups": {"worker": {"autoscaling": {"enabled": True}}},
                "settings": {"bootstrap_servers": "k:1", "kafka": {"security_protocol": "SSL"}},
            },
            "TriggerAuthentication",
        ),
        ({"ports": {"web": 80}}, "web"),
        ({"replicas": 3}, "replicas"),
    ],
)
def test_values_that_cannot_work_are_refused(more: Json, said: str) -> None:
    """Before anything is sent to a cluster, and with the name of what is wrong."""
    import helm_python

    with pytest.raises(helm_python.HelmError, match=said):
        render(values("one") | more)

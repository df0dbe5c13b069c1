"""What the console script says without a broker: help, usage errors, settings, contracts."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import orjson
import pytest

import schemas
from schemas.asyncapi import Cluster, document
from schemas.messages import Aggregate, Measure
from streams.cli.agents import auth_of, confidence_of
from streams.cli.main import invoke
from streams.cli.options import CommandError
from streams.cli.output import table
from streams.cli.process import stop_on_signals
from streams.cli.running import explain
from streams.cli.stats import show
from streams.cli.submit import Lines, items
from streams.cli.summary import as_document, newest, summarize
from streams.client.errors import InvalidTask, KafkaUnreachable, NotFound, TopicsMissing, WaitTimeout

PARALLAX = str(Path(sys.executable).with_name("parallax"))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside."""
    for name in list(os.environ):
        if name.startswith("PARALLAX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_script_is_installed_and_imports_little() -> None:
    """`version` neither imports Kafka, Faust, river nor pydantic's settings: it must answer at once."""
    heavy = ["aiokafka", "faust", "river", "aiohttp", "httpx", "rich.console", "uvloop", "structlog"]
    code = (
        "import sys; from streams.cli.main import invoke; code = invoke(['version'])\n"
        f"print([name for name in {heavy} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"parallax-streams {version('parallax-streams')}", "[] 0"]
    done = subprocess.run([PARALLAX, "version", "-o", "json"], capture_output=True, text=True, check=True)
    assert orjson.loads(done.stdout)["name"] == "parallax-streams"


COMMANDS = [
    "dev",
    "worker",
    "submit",
    "tail",
    "task",
    "explain",
    "plan",
    "stats",
    "anomalies",
    "cancel",
    "doctor",
    "config",
    "version",
]
GROUPS = [
    "topics apply",
    "topics ls",
    "workers ls",
    "agents add",
    "agents ls",
    "agents rm",
    "agents probe",
    "dlq ls",
    "dlq show",
    "dlq replay",
    "docs schemas",
    "docs asyncapi",
    "cache clear",
    "functions ls",
]


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_every_command_takes_the_common_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--bootstrap-servers, --topic-prefix and -o stand in the help of each."""
    assert invoke([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--bootstrap-servers", "--topic-prefix", "-o, --output"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nosuch", "No such command 'nosuch'"),
        ("topics", "Missing command"),
        ("topics ls --nope", "No such option: --nope (see: parallax topics ls --help)"),
        ("topics apply --partitions 0", "--partitions"),
        ("topics ls -o xml", "xml"),
        ("tail nosuch", "nosuch: no such topic; there are tasks, plans"),
        ("worker --web-port http", "--web-port: input should be a valid integer"),
        ("worker --roles cook", "--roles: input should be 'dispatch', 'plans', 'schedules' or 'stats'"),
        ("worker --session-timeout 10", "--session-timeout: input should be greater than or equal to 1000"),
        ("worker --session-timeout soon", "--session-timeout: is not a duration: 'soon'"),
        ("topics ls --topic-prefix Has_Upper", "--topic-prefix: "),
        ("agents add", "needs ID and ENDPOINT, or --file FILE"),
        ("agents add a1 nowhere", "endpoint: the protocol cannot be derived"),
        ("agents add a1 http://h --window 5x", "--window: is not a duration"),
        ("agents add a1 http://h --max-requests 0", "limits.maxRequests"),
        ("agents add a1 http://h --file x", "--file stands alone"),
        ("agents add --file nofile", "nofile: No such file"),
        ("submit nofile", "nofile: No such file"),
        ("submit --timeout never", "--timeout: is not a duration"),
        ("docs schemas Nosuch", "unknown message Nosuch"),
        ("config -o yaml", "'--output': 'yaml' is not one of 'text', 'json', 'jsonl'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, naming what is wrong; nothing on stdout."""
    assert invoke(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (\n", "SyntaxError: '(' was never closed"),
        ("import json\njson.lods('1')\n", "AttributeError: module 'json' has no attribute 'lods'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("from agents_io import agent\n@agent('a')\ndef f(): ...\n", "f: an agent's function takes the payload"),
    ],
)
def test_a_fault_in_an_agents_module_is_the_users(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the place in it; no traceback of ours, and no exit code that the module chose."""
    (tmp_path / "px_agent_at_fault.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert invoke(["agent", "serve", "px_agent_at_fault:f"]) == 2
    err = capsys.readouterr().err
    assert "agent serve: px_agent_at_fault cannot be imported: " in err
    assert message in err
    assert "px_agent_at_fault.py, line " in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KafkaUnreachable("gone"), 3),
        (TopicsMissing("gone"), 1),
        (NotFound("gone"), 4),
        (InvalidTask("gone"), 2),
        (WaitTimeout("gone"), 124),
    ],
)
def test_what_the_clients_parts_raise_is_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error) == code
    assert capsys.readouterr().err == "parallax: gone\n"


class Unread(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


async def test_a_worker_whose_messages_nobody_reads_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `parallax worker 2>&1 | head`."""
    monkeypatch.setattr(sys, "stderr", Unread())
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    came = stop_on_signals(stop, 3600)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
    finally:
        for which in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(which)
    assert came == [signal.SIGTERM]


def test_an_unknown_setting_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named with the nearest known one."""
    monkeypatch.setenv("PARALLAX_BOOTSTRAP_SERVER", "b:1")
    assert invoke(["config"]) == 2
    assert "did you mean PARALLAX_BOOTSTRAP_SERVERS?" in capsys.readouterr().err


def test_the_asyncapi_document_is_printed_as_committed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """YAML on stdout or in a file, byte for byte; JSON holds the same."""
    committed = (Path(schemas.__file__).parent / "asyncapi.yaml").read_text("utf-8")
    assert invoke(["docs", "asyncapi"]) == 0
    assert capsys.readouterr().out == committed
    assert invoke(["docs", "asyncapi", "--write", "new/a.yaml"]) == 0
    assert (tmp_path / "new" / "a.yaml").read_text("utf-8") == committed
    assert capsys.readouterr().out == ""
    for form in ("json", "jsonl"):
        assert invoke(["docs", "asyncapi", "-o", form]) == 0
        out = capsys.readouterr().out
        assert orjson.loads(out) == document()
        assert (len(out.splitlines()) == 1) == (form == "jsonl")


def test_the_asyncapi_document_is_of_the_settings_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prefix, servers and how they are secured; partitions and copies as asked for."""
    monkeypatch.setenv("PARALLAX_TOPIC_PREFIX", "acme.")
    monkeypatch.setenv("PARALLAX_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("PARALLAX_KAFKA__SASL_MECHANISM", "SCRAM-SHA-256")
    asked = ["--bootstrap-servers", "b1:1, b2:2", "--partitions", "3", "--replication-factor", "2", "-o", "json"]
    assert invoke(["docs", "asyncapi", *asked]) == 0
    guarded = Cluster(("b1:1", "b2:2"), "SASL_SSL", "SCRAM-SHA-256", partitions=3, replicas=2)
    assert orjson.loads(capsys.readouterr().out) == document("acme.", guarded)


def test_config_names_the_origin_and_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flag, environment, file, default."""
    (tmp_path / "parallax.toml").write_text("web_port = 1\n")
    monkeypatch.setenv("PARALLAX_KAFKA__SASL_PASSWORD", "hunter2")
    assert invoke(["config", "--topic-prefix", "x.", "-o", "json"]) == 0
    out = capsys.readouterr().out
    rows = {row["setting"]: (row["value"], row["from"]) for row in orjson.loads(out)}
    assert rows["topic_prefix"] == ("x.", "--topic-prefix")
    assert rows["web_port"] == (1, "parallax.toml: web_port")
    assert rows["app_id"] == ("parallax-streams", "default")
    assert rows["kafka.sasl_password"] == ("********", "PARALLAX_KAFKA__SASL_PASSWORD")
    assert "hunter2" not in out


def test_a_fault_of_ours_is_told_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace for the report, exit 1."""
    monkeypatch.setattr("streams.cli.info.rows_as", lambda *_: 1 // 0)
    assert invoke(["config"]) == 1
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err


def test_tables_are_aligned_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain text, no boxes, no colours."""
    table(("id", "n"), [("abc", 1), ("d", None)])
    assert capsys.readouterr().out == "ID   N\nabc  1\nd    -\n"


def test_tasks_are_keyed_by_their_agent_and_others_by_their_id(tmp_path: Path) -> None:
    """The owner partition of an agent is that of its id."""
    file = tmp_path / "tasks"
    lines = [
        {"id": "t1", "type": "agent", "target": "a1", "payload": 1},
        {"id": "t2", "type": "agent", "capabilities": ["c"], "payload": 1},
        {"id": "t3", "type": "function", "target": "f", "payload": 1},
    ]
    file.write_bytes(b"\n\n".join(orjson.dumps(line) for line in lines))
    assert [(item.id, item.key) for item in items(Lines(file))] == [("t1", b"a1"), ("t2", b"t2"), ("t3", b"t3")]


def test_a_plan_under_an_id_that_answers_a_task_is_not_sent(tmp_path: Path) -> None:
    """The coordinator would put it aside."""
    file = tmp_path / "plans"
    file.write_bytes(
        orjson.dumps({"id": "task:t1", "tasks": [{"id": "a", "type": "function", "target": "f", "payload": 1}]})
    )
    with pytest.raises(CommandError, match="line 1: id: must not begin with 'task:'"):
        list(items(Lines(file, plan=True)))


def test_windows_put_together_equal_a_recount() -> None:
    """Mean, variance and Brier score over unequal windows are those of all points in one. All of them succeeded."""
    groups = [[0.1, 0.9, 0.5], [0.7], [0.2, 0.2, 0.3, 0.8]]
    windows = []
    for number, points in enumerate(groups):
        mean = sum(points) / len(points)
        spread = sum((x - mean) ** 2 for x in points) / len(points)
        brier = sum((x - 1) ** 2 for x in points) / len(points)
        windows.append(_window(number, len(points), mean, spread, brier=brier))
    everything = [x for points in groups for x in points]
    mean = sum(everything) / len(everything)
    whole = summarize(newest(reversed(windows)))
    assert whole.executions == 8
    assert whole.avg_confidence == pytest.approx(mean)
    assert whole.variance == pytest.approx(sum((x - mean) ** 2 for x in everything) / 8)
    assert whole.brier == pytest.approx(sum((x - 1) ** 2 for x in everything) / 8)


def test_a_late_revision_does_not_displace_a_final_one() -> None:
    """Final beats revision, revision beats order."""
    old, new = _window(0, 1, 0.5, 0.0, revision=1), _window(0, 2, 0.5, 0.0, revision=2)
    final = _window(0, 3, 0.5, 0.0, revision=0, final=True)
    assert newest([new, old])[0].count == 2
    assert newest([final, new])[0].count == 3


def test_waits_tokens_and_costs_of_windows_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Over the executions that have them; the columns are there once one has."""
    plain = _window(0, 5, 0.9, 0.0)
    spent = plain.model_copy(update={"cost": Measure(count=3, sum=0.3, mean=0.1, p95=0.2), "window_start": 60_000})
    more = spent.model_copy(update={"cost": Measure(count=1, sum=0.5, mean=0.5, p95=0.5), "window_start": 120_000})
    document = as_document("a", [plain, spent, more])
    assert document["cost"] == {"count": 4, "sum": pytest.approx(0.8), "mean": pytest.approx(0.2)}
    assert "waitTime" not in document
    show(document, [plain, spent, more], "minute")
    head, row = capsys.readouterr().out.splitlines()[1:3]
    assert "COST" in head
    assert "TOKENS" not in head
    assert "0.8" in row
    show(as_document("a", [plain]), [plain], "minute")
    assert "COST" not in capsys.readouterr().out


def _window(
    number: int,
    count: int,
    mean: float,
    variance: float,
    *,
    revision: int = 0,
    final: bool = False,
    brier: float = 0.0,
) -> Aggregate:
    return Aggregate(
        agent_id="a", pattern_name="", task_type="", interval="minute", window_start=number * 60_000,
        window_end=(number + 1) * 60_000, final=final, count=count, success_count=count, avg_confidence=mean,
        min_confidence=0.0, max_confidence=1.0, variance=variance, success_rate=1.0, avg_execution_time=1.0,
        p50_execution_time=1.0, p95_execution_time=1.0, p99_execution_time=1.0, p10_confidence=mean,
        p50_confidence=mean, brier=brier, ece=0.0, revision=revision,
    )  # fmt: skip


def test_functions_ls_tells_what_a_worker_would_offer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the settings; a module that cannot be imported is one line and exit 1."""
    assert invoke(["functions", "ls", "-o", "json"]) == 0
    assert orjson.loads(capsys.readouterr().out) == []
    monkeypatch.setenv("PARALLAX_FUNCTIONS__MODULES", "tests.support.some_functions")
    assert invoke(["functions", "ls", "-o", "json"]) == 0
    rows = {row["name"]: row for row in orjson.loads(capsys.readouterr().out)}
    assert rows["double"] == {
        "name": "double",
        "runs": "in a thread",
        "defined": "tests.support.some_functions.double",
    }
    assert rows["sure"]["runs"] == "on the loop"
    monkeypatch.setenv("PARALLAX_FUNCTIONS__MODULES", "px_nowhere")
    assert invoke(["functions", "ls"]) == 1
    assert "px_nowhere cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        ("stated", {"from": "stated"}),
        ("path=a.b", {"from": "path", "path": "a.b"}),
        ("constant=0.5", {"from": "constant", "value": 0.5}),
        ("agreement", {"from": "agreement"}),
        ("agreement=7", {"from": "agreement", "samples": 7}),
        ("judge=j", {"from": "judge", "agent": "j"}),
    ],
)
def test_every_source_of_confidence_can_be_named(text: str, confidence: dict[str, object]) -> None:
    """As `--confidence` spells them."""
    assert confidence_of(text) == confidence


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--confidence", "agreement=many"], "agreement wants a number of samples, not 'many'"),
        (["--confidence", "agreement=1"], "samples"),
        (["--confidence", "judge"], "agent: required with"),
        (["--confidence", "judge=a"], "cannot be its own judge"),
        (["--auth-header", "X-Api-Key"], "--auth-header: needs --auth-env"),
        (["--auth-env", "KEY", "--auth-header", "Host"], "header: Host cannot carry a secret"),
    ],
)
def test_a_registration_that_cannot_work_is_not_written(
    options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before a broker is asked."""
    assert invoke(["agents", "add", "a", "http://h", "--no-discover", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_token_in_a_header_of_its_own() -> None:
    """As a registration has it."""
    assert auth_of("KEY", "X-Api-Key") == {"env": "KEY", "scheme": "header", "header": "X-Api-Key"}
    assert (auth_of("KEY", None), auth_of(None, None)) == ({"env": "KEY"}, None)

"""Names that were given up stay out, and so do words of prose; each stands beside its term.

The rule behind them: a name is the term that a Kafka, Temporal or Prometheus engineer would search for, and two classes never
share one.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "agents_io", "schemas")

EVERYWHERE = {
    "Breath": "Yielder",
    "Desk": "StatsApi, PlansApi",
    "Doom": "DropReason",
    "Echo": "EchoedMetadata",
    "FakeHome": "FakePartition",
    "Fenced": "CommitFailed",
    "Flow": "MemoryBudget",
    "Folder": "Aggregator",
    "Home": "PartitionProcessor",
    "HomeMemory": "PartitionState",
    "JobBook": "InFlightTasks",
    "LastWords": "BestEffortRequests",
    "LeaseKeeper": "LeaseExpirer",
    "Letter": "SourceRecord",
    "Looks": "IntervalChecks",
    "Marks": "DlqHeaders",
    "ParkingLot": "DelayQueue",
    "PlanShelf": "PlanStore",
    "Returner": "DlqReplayer",
    "RosterError": "AgentsFileError",
    "SeenIds": "DedupWindow",
    "StandingKeeper": "AgentStatusPublisher",
    "Standings": "AgentStatuses",
    "Station": "GatewayService, RunningWorker",
    "StatsKeeper": "StatsSupervisor",
    "Ticket": "Attempt",
    "Wish": "WatchRequest, cancel_request",
    "aiohttp_seam": "aiohttp_transport",
    "blockers": "blocking_offsets",
    "breath": "checkpoint",
    "detours": "failover",
    "home_partition": "owner_partition",
    "hungry": "fair_share",
    "lane_depth": "queue_depth",
    "letter_box": "dlq_reader",
    "letter_of": "source_record_of",
    "plans_desk": "PlansApi",
    "read_marks": "read_dlq_headers",
    "relieve": "unblock",
    "returner": "replayer",
    "salvage": "decode_leniently",
    "standing": "agent_status",
    "standings": "agent_statuses",
    "stats_desk": "StatsApi",
    "whence": "find_start_offsets",
    "wishes": "cancel_requests",
}
"""Identifiers that are nowhere, and what the thing is called."""

IN_PACKAGES = {
    "Asked": "OriginTask",
    "Given": "SettingSource, ChosenIds",
    "Job": "TaskRun",
    "Kept": "EntryBuffer, GuardSnapshot",
    "Lane": "AgentQueue",
    "Level": "StepGraph, LevelShiftDetector",
    "Place": "PartitionStatus, RecordId, Position, ChannelKey",
    "Spent": "Timing",
    "Told": "CountedAlarms",
    "Track": "CallStats",
    "desk": "api",
    "detour": "failover",
    "doomed": "expired_items",
    "fleet": "agents",
    "fold": "add_point, aggregate",
    "folder": "aggregator",
    "home": "processor, partition",
    "homes": "processors, partitions",
    "lane": "queue, host_key",
    "lanes": "queues",
    "letter": "dead_letter, source_record",
    "letters": "dead_letters, records",
    "parking_lot": "delay_queue",
    "roster": "agents_file",
    "said": "shown, text, description, message",
    "shelf": "store",
    "told": "what was told: published, reported, status, data",
    "wish": "cancel_request, watch_request",
}
"""Identifiers that tests may use for things of their own."""

MODULES = {
    "breath.py": "yielder.py",
    "fold.py": "aggregator.py",
    "home.py": "partition_processor.py",
    "home_memory.py": "partition_state.py",
    "lease_keeper.py": "lease_expirer.py",
    "letter_box.py": "dlq_reader.py",
    "letters.py": "dead_letters.py",
    "looks.py": "interval_checks.py",
    "places.py": "partition_status.py",
    "roster.py": "agents_file_diff.py",
    "salvage.py": "lenient_decoding.py",
    "seen.py": "dedup_window.py",
    "standing_keeper.py": "agent_status_publisher.py",
    "standings.py": "agent_statuses.py",
}

OWN_MEANING = {
    "streams/cli/output.py": {"letter"},  # of a word
    "streams/live/page.py": {"folder"},  # of files
}
"""Files in which a name means what it says."""

DIALECT = re.compile(r"\b(whoever|nobody|somebody|told|lanes?|for want of)\b", re.IGNORECASE)
"""In texts that users read: name the actor, and say report, publish, record, return or log."""
TEXTS = ("*.md", "docs/**/*.md", "docs/**/*.toml", "deploy/**/*.md", "deploy/**/*.yaml", "deploy/**/*.txt")


def banned_in(path: Path) -> dict[str, str]:
    """The names that may not stand in this file."""
    where = path.relative_to(ROOT)
    found = EVERYWHERE | (IN_PACKAGES if where.parts[0] in PACKAGES else {})
    return {name: new for name, new in found.items() if name not in OWN_MEANING.get(where.as_posix(), ())}


def sources() -> Iterator[Path]:
    """Every Python file that people write."""
    for folder in (*PACKAGES, "tests", "docs/examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith("_pb2.py") and path != Path(__file__):
                yield path


def given_up(path: Path, banned: dict[str, str]) -> list[str]:
    """One sentence for each name token of the file that is banned."""
    with path.open("rb") as file:
        return [
            f"{path}:{token.start[0]}: `{token.string}` is called {banned[token.string]}"
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.NAME and token.string in banned
        ]


def test_no_name_that_was_given_up_comes_back() -> None:
    """As an identifier of its own; inside of words, strings and comments it is not looked for."""
    assert [line for path in sources() for line in given_up(path, banned_in(path))] == []


def test_no_module_that_was_renamed_comes_back() -> None:
    """By its file's name."""
    found = [path.relative_to(ROOT) for path in sources() if path.name in MODULES]
    assert [f"{path}: is called {MODULES[path.name]}" for path in found] == []


@pytest.mark.parametrize(
    ("line", "complaints"), [("class Home:\n", 1), ("x.home_partition(1)\n", 1), ('"Home"  # Home\n', 0)]
)
def test_the_check_finds_what_it_is_for(tmp_path: Path, line: str, complaints: int) -> None:
    """Whole identifiers, not words in strings and comments."""
    path = tmp_path / "one.py"
    path.write_text(line, "utf-8")
    assert len(given_up(path, EVERYWHERE)) == complaints


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each sentence in the code that a user can see: string literals with a space, but no docstrings."""
    tree = ast.parse(source)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in docstrings
            and " " in node.value
        ):
            yield node.lineno, node.value


def test_errors_logs_and_helps_name_who_acts() -> None:
    """Also metric helps and answers of the HTTP API."""
    code = [path for path in sources() if path.relative_to(ROOT).parts[0] in PACKAGES]
    found = [(path, line, text) for path in code for line, text in texts_of(path.read_text("utf-8"))]
    assert [f"{path}:{line}: {text}" for path, line, text in found if DIALECT.search(text)] == []
    assert len(found) > 1000


def test_documents_name_who_acts() -> None:
    """All that people write for users: README, docs, changelog, what is in deploy/."""
    paths = [path for pattern in TEXTS for path in sorted(ROOT.glob(pattern)) if ".venv" not in path.parts]
    lines = [(path, at, line) for path in paths for at, line in enumerate(path.read_text("utf-8").splitlines(), 1)]
    assert [f"{path}:{at}: {line.strip()}" for path, at, line in lines if DIALECT.search(line)] == []


def test_the_check_of_texts_finds_what_it_is_for() -> None:
    """Not in docstrings, and not inside of words."""
    source = 'def f():\n    """Nobody is told."""\n    raise ValueError(f"it told {1} address")\n'
    assert [line for line, text in texts_of(source) if DIALECT.search(text)] == [3]
    assert DIALECT.search("planes") is None


def assigned_twice(tree: ast.Module) -> list[str]:
    """Constants of a module that a later line of it replaces; a variant under `if` or `try` is none."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name) and target.id != "_"]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return sorted({name for name in names if names.count(name) > 1})


def test_no_module_gives_two_constants_one_name() -> None:
    """A rename once did: the second took the place of the first, and no type checker said so."""
    assert assigned_twice(ast.parse("_A = (1,)\nB: int = 2\n_A = 3\n")) == ["_A"]
    found = {str(path): twice for path in sources() if (twice := assigned_twice(ast.parse(path.read_text())))}
    assert found == {}


TWINS = {
    "AgentDirectory", "Client", "Handle", "ScheduleDirectory",  # blocking, with the same names
    "BadResponse", "ClientError", "ExecutionFailed", "ForbiddenTarget", "InternalError", "InvalidPlan", "NoAgent",
    "RateLimited", "UnknownFunction", "Unsupported",  # a failure, and what the client raises for it
    "Answer",  # what a function returns, and what a transport returns
    "FakeAgent",  # over HTTP, and of every protocol
}  # fmt: skip
"""Classes that share a name on purpose."""


def test_no_two_classes_share_a_name() -> None:
    """Those of modules; a name that begins with an underscore is its module's own affair."""
    found: list[str] = []
    for path in sources():
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            found += [node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    public = [name for name in found if not name.startswith("_")]
    assert {name for name in public if public.count(name) > 1} == TWINS

"""Agent cards of A2A 1.0 and 0.3: where an agent is called, in which version and binding, and which parts it accepts.
Pure.

In: the bytes of a card. Out: a `Card`, or an `AgentError`. Source: AgentCard in the A2A specifications 1.0
(`supportedInterfaces`) and 0.3 (`url`, `preferredTransport`, `additionalInterfaces`); a card may hold both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from agents_io.errors import BadResponse, Unsupported
from agents_io.rules.answer import excerpt, load_json

Version = Literal["1.0", "0.3"]
VERSIONS: tuple[Version, ...] = ("1.0", "0.3")
Binding = Literal["JSONRPC", "HTTP+JSON"]
BINDINGS: tuple[Binding, ...] = ("JSONRPC", "HTTP+JSON")
CARD_PATHS = (".well-known/agent-card.json", ".well-known/agent.json")
"""The path in 1.0 and 0.3, and the earlier one."""
_MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to call an agent. `path`: of the JSON-RPC URL, or of the one that HTTP+JSON's paths lie under; with its query.

    `plain`: HTTP+JSON of 0.3 with messages as JSON-RPC has them, in place of the JSON of its a2a.proto; its specification can be
    read in both ways.
    """

    version: Version
    binding: Binding
    path: str
    tenant: str | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """The used parts of an agent card. `interfaces`: at least one, in the order in which to try them. `text_only`: the
    agent accepts no data parts.
    """

    interfaces: tuple[Interface, ...]
    name: str | None
    skills: tuple[str, ...]
    text_only: bool = False
    streams: bool = False


def read_card(body: bytes, binding: Binding | None = None) -> Card:
    """The card's interfaces that we support, newest version first, then in the card's order. `binding`: only this one.

    Raises `BadResponse`, `Unsupported`.

    >>> read_card(b'{"name":"n","url":"http://h/rpc","protocolVersion":"0.3.0","skills":[{"id":"sum"}]}')
    Card(interfaces=(Interface(version='0.3', binding='JSONRPC', path='/rpc', tenant=None, plain=False),), name='n', \
skills=('sum',), text_only=False, streams=False)
    """
    card = load_json(body)
    if not isinstance(card, dict) or not ("supportedInterfaces" in card or "url" in card):
        raise BadResponse(f"the response is not an agent card: {excerpt(body)}")
    found = [row for row in _interfaces(card) if binding in (None, row.binding)]
    if not found:
        wanted = " or ".join(BINDINGS) if binding is None else binding
        offers = _offers(card)
        hint = "; A2A over gRPC is not supported" if "GRPC" in offers.upper() else ""
        raise Unsupported(f"the agent card names no {wanted} interface of A2A 1.0 or 0.3, only {offers}{hint}")
    return Card(
        with_forms(sorted(found, key=lambda row: VERSIONS.index(row.version))),
        _name(card.get("name")),
        tuple(_skills(card.get("skills"))),
        _takes_text_only(card),
        _streams(card),
    )


def with_forms(interfaces: Iterable[Interface]) -> tuple[Interface, ...]:
    """The interfaces, and after them the one of 0.3 over HTTP+JSON in its second form.

    >>> [row.plain for row in with_forms([Interface("0.3", "HTTP+JSON", "/"), Interface("0.3", "JSONRPC", "/")])]
    [False, False, True]
    """
    rows = tuple(interfaces)
    return rows + tuple(replace(row, plain=True) for row in rows if (row.version, row.binding) == ("0.3", "HTTP+JSON"))


def _interfaces(card: dict[str, Any]) -> list[Interface]:
    """The first interface of each version and binding, in the card's order; one in the form of 1.0 before one in that of 0.3.

    An interface in the form of 1.0 that names no version is one of 1.0: the official SDK leaves the version out by default.
    It may be one of 0.3 all the same, if no other is.
    """
    version = card.get("protocolVersion") or "0.3"
    rows: list[tuple[Any, Any, Any, Any]] = [
        (row.get("protocolBinding"), row.get("protocolVersion") or "1.0", row.get("url"), row.get("tenant"))
        for row in dicts(card.get("supportedInterfaces"))
    ]
    rows.append((card.get("preferredTransport") or "JSONRPC", version, card.get("url"), None))
    rows += [
        (row.get("transport"), version, row.get("url"), None) for row in dicts(card.get("additionalInterfaces") or [])
    ]
    rows += [
        (row.get("protocolBinding"), "0.3", row.get("url"), None)
        for row in dicts(card.get("supportedInterfaces"))
        if not row.get("protocolVersion")
    ]
    found: dict[tuple[Version, Binding], Interface] = {}
    for name, claimed, url, tenant in rows:
        binding, spoken = _binding(name), _spoken(claimed)
        if binding is not None and spoken is not None and isinstance(url, str) and (spoken, binding) not in found:
            tenant = tenant if isinstance(tenant, str) and tenant else None
            found[spoken, binding] = Interface(spoken, binding, _path(url), tenant)
    return list(found.values())


def _streams(card: dict[str, Any]) -> bool:
    capabilities = card.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get("streaming") is True


def _offers(card: dict[str, Any]) -> str:
    """What an unusable card offers, for an error message."""
    rows = [
        f"{row.get('protocolBinding') or row.get('transport')} {row.get('protocolVersion') or ''}".strip()
        for name in ("supportedInterfaces", "additionalInterfaces")
        for row in dicts(card.get(name))
    ]
    if card.get("url"):
        rows.append(f"{card.get('preferredTransport') or 'JSONRPC'} {card.get('protocolVersion') or ''}".strip())
    return excerpt(", ".join(rows).encode("utf-8", "replace")) if rows else "none"


def _takes_text_only(card: dict[str, Any]) -> bool:
    """Whether the agent accepts text alone, by default and for every skill that has modes of its own."""
    given = [card.get("defaultInputModes"), *(skill.get("inputModes") for skill in dicts(card.get("skills")))]
    modes = [mode.lower() for listed in given if isinstance(listed, list) for mode in listed if isinstance(mode, str)]
    return bool(modes) and all(mode == "text" or mode.startswith("text/") for mode in modes)


def dicts(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows[:_MAX_PARTS] if isinstance(row, dict)] if isinstance(rows, list) else []


def _spoken(version: Any) -> Version | None:
    if isinstance(version, float):  # it became a number on its way through YAML
        version = str(version)
    if not isinstance(version, str):
        return None
    if version.startswith("1."):
        return "1.0"
    return "0.3" if version.startswith("0.") else None


def _binding(name: Any) -> Binding | None:
    """A binding we speak, however it is written.

    >>> _binding("http+json"), _binding("GRPC")
    ('HTTP+JSON', None)
    """
    return next((known for known in BINDINGS if isinstance(name, str) and name.upper() == known), None)


_AS_IT_IS = "%/?:@!$&'()*+,;=~"


def _path(url: str) -> str:
    """Only the path of a card's URL is used: the registration alone decides which host gets our token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadResponse(f"the agent card's URL is invalid: {excerpt(url.encode())}") from None
    path = "/" + parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    return quote(path, safe=_AS_IT_IS)  # some cards hold letters that a URL has escaped only


def _name(name: Any) -> str | None:
    return name[:256] if isinstance(name, str) and name else None


def _skills(skills: Any) -> list[str]:
    """Ids and tags, each once, in order."""
    found: dict[str, None] = {}
    for skill in dicts(skills):
        tags = skill.get("tags")
        for name in (skill.get("id"), *(tags if isinstance(tags, list) else ())):
            if isinstance(name, str) and 0 < len(name) <= 256:
                found[name] = None
    return list(found)[:_MAX_PARTS]


def version_of(metadata: Mapping[str, Any]) -> Version | None:
    """`metadata.a2aVersion`, as text or as a number, as a command line or a TOML file makes it. Raises `Unsupported`.

    >>> version_of({"a2aVersion": 0.3}), version_of({})
    ('0.3', None)
    """
    given = metadata.get("a2aVersion")
    if given is None:
        return None
    text = str(given) if isinstance(given, (str, int, float)) and not isinstance(given, bool) else ""
    found = _spoken(text if "." in text else f"{text}.0") if text else None
    if found is None:
        raise Unsupported(f"metadata.a2aVersion: must be one of {', '.join(VERSIONS)}")
    return found


def binding_of(metadata: Mapping[str, Any]) -> Binding | None:
    """`metadata.a2aBinding`, None without it. Raises `Unsupported`."""
    given = metadata.get("a2aBinding")
    found = _binding(given)
    if given is not None and found is None:
        raise Unsupported(f"metadata.a2aBinding: must be one of {', '.join(BINDINGS)}")
    return found

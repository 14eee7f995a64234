"""The rules in the words of EMQX: its authorisation file. Written to EMQX 5's documentation, not run on one here.

EMQX asks about subscribing, not about receiving, and about a last will as about any message. To it a filter's `#` fits
a `+` at the same place, so who may read `a/+` may also subscribe to `a/#`; nobody may publish what that adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.access import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.access import Access, Identity

_HEAD: Final = """\
%% Rendered from an access file; changes made here are lost.
%%
%% It counts on these settings of EMQX (5.3 or newer, for the retain flag):
%%
%%   mqtt.peer_cert_as_username = cn
%%   mqtt.peer_cert_as_clientid = cn
%%   authorization.no_match = deny
%%   authorization.sources = [{type = file, enable = true, path = "acl.conf"}]
%%
%% and on a listener with ssl_options.verify = verify_peer and fail_if_no_peer_cert = true. Who is revoked is not in
%% this file, and so may do nothing. EMQX finds revocation lists by an address in the certificate; these have none.
"""


def render_emqx(access: Access) -> str:
    """Return the authorisation file (`acl.conf`): Erlang terms, of which the first that fits decides."""
    lines = [_HEAD]
    for identity in access.identities:
        lines += [f"%% {identity.role}", *_block(access, identity), ""]
    return "\n".join([*lines, "{deny, all}."]) + "\n"


def _block(access: Access, identity: Identity) -> Iterator[str]:
    # A client id that the listener does not take from the certificate could be anybody's.
    who = f'{{\'and\', [{{username, "{identity.name}"}}, {{clientid, "{identity.name}"}}]}}'
    rules = access.rules(identity)
    wanted = (
        ("publish", [rule.topic for rule in rules if Action.RETAIN in rule.may]),
        (
            "{publish, [{retain, false}]}",
            [rule.topic for rule in rules if Action.PUBLISH in rule.may and Action.RETAIN not in rule.may],
        ),
        ("subscribe", [rule.topic for rule in rules if Action.SUBSCRIBE in rule.may]),
    )
    for action, topics in wanted:
        if topics:
            yield _allow(who, action, topics)


def _allow(who: str, action: str, topics: list[str]) -> str:
    listed = ",\n    ".join(f'"{topic}"' for topic in topics)
    return f"{{allow, {who}, {action}, [\n    {listed}\n]}}."

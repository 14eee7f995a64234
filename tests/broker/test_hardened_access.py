"""Gaps of amqtt 0.12.1 through which one client reaches what is another's, shown on plain amqtt and closed in ours."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from amqtt.contexts import Action as AmqttAction
from amqtt.plugins.base import BaseTopicPlugin

from broker.access import Action
from tests.broker.brokers import ALL, allow, both
from tests.broker.raw import ACCEPTED, DISCONNECT, NOT_AUTHORIZED, PUBLISH, REFUSED, RawClient

if TYPE_CHECKING:
    from tests.broker.brokers import Start
    from tests.broker.raw import Packet

Plugins = dict[str, dict[str, Any]]

NAMES = "tests.broker.brokers.NamesAndPasswords"
OWN = allow(("{name}/#", ALL))

own_rules = pytest.mark.filterwarnings("ignore:The 'acl' option is deprecated")


@both
def test_wrong_password_does_not_kick(start: Start, closed: bool) -> None:
    """Plain: a CONNECT with a wrong password ends the connection of the client that it names."""
    broker = start(closed=closed, access=OWN)
    with RawClient(broker) as owner, RawClient(broker) as thief:
        owner.login("pi", clean=False)
        assert thief.try_login("pi", clean=False, word="guess") == NOT_AUTHORIZED
        if closed:
            owner.barrier()
        else:
            assert owner.closed()


@both
def test_wrong_password_does_not_wipe(start: Start, closed: bool) -> None:
    """Plain: a CONNECT with a wrong password and a clean session throws away what waits for the client it names."""
    broker = start(closed=closed, access=OWN)
    with RawClient(broker) as owner, RawClient(broker) as thief, RawClient(broker) as app, RawClient(broker) as back:
        owner.login("pi", clean=False).subscribe("pi/ask")
        owner.send(DISCONNECT)
        assert owner.closed()
        assert thief.try_login("pi", word="guess") == NOT_AUTHORIZED
        app.login("root").publish_acknowledged("pi/ask")
        app.barrier()
        back.login("pi", clean=False)
        assert [packet.topic for packet in back.barrier()] == (["pi/ask"] if closed else [])


@both
def test_session_of_another_user(start: Start, closed: bool) -> None:
    """Plain: any user takes over any session by its client id, with what waits in it."""
    plugins: Plugins | None = None if closed else {NAMES: {}}
    broker = start(closed=closed, access=OWN if closed else None, plugins=plugins)
    with RawClient(broker) as owner, RawClient(broker) as thief, RawClient(broker) as app:
        owner.login("pi", clean=False).subscribe("pi/ask")
        owner.send(DISCONNECT)
        assert owner.closed()
        app.login("root").publish_acknowledged("pi/ask")
        app.barrier()
        thief.login("gpu", clean=False, client_id="pi")
        if closed:
            assert thief.barrier() == []
        else:
            assert thief.read().topic == "pi/ask"


@both
def test_live_session_of_another_user(start: Start, closed: bool) -> None:
    """Plain: any user ends any connection by its client id."""
    plugins: Plugins | None = None if closed else {NAMES: {}}
    broker = start(closed=closed, access=OWN if closed else None, plugins=plugins)
    with RawClient(broker) as owner, RawClient(broker) as thief:
        owner.login("pi", clean=False)
        thief.login("gpu", clean=False, client_id="pi")
        if closed:
            owner.barrier()
        else:
            assert owner.closed()


@both
def test_last_will(start: Start, closed: bool) -> None:
    """Plain: a last will is published wherever its client wanted."""
    broker = start(closed=closed, access=OWN)
    with RawClient(broker) as watcher, RawClient(broker) as client:
        watcher.login("root").subscribe("#")
        code = client.try_login("pi", will="gpu/state")
        client.socket.close()
        assert code == (NOT_AUTHORIZED if closed else ACCEPTED)
        if not closed:
            assert watcher.read().topic == "gpu/state"
        else:
            assert watcher.barrier() == []


@pytest.mark.parametrize(("topic", "retain"), [("ask", False), ("state", True)])
@both
def test_last_will_of_who_may_only_publish(start: Start, closed: bool, topic: str, retain: bool) -> None:
    """Plain: who may publish may leave it as last will, and have the broker keep it."""
    access = allow(("ask", (Action.PUBLISH,)), ("state", (Action.PUBLISH, Action.WILL)))
    broker = start(closed=closed, access=access)
    with RawClient(broker) as client, RawClient(broker) as again:
        assert client.try_login("pi", will=topic, will_retain=retain) == (NOT_AUTHORIZED if closed else ACCEPTED)
        assert again.try_login("pi", will="state") == ACCEPTED


@both
def test_last_will_with_a_wildcard(start: Start, closed: bool) -> None:
    """Plain: a last will may have a topic that is none."""
    with RawClient(start(closed=closed)) as client:
        assert client.try_connect("client", will="a/+/b") == (NOT_AUTHORIZED if closed else ACCEPTED)


@both
def test_retained_will_of_a_resumed_session(start: Start, closed: bool) -> None:
    """Plain: of a resumed session, the retain flag of the last will is the old connection's."""
    plugins: Plugins | None = None if closed else {NAMES: {}}
    broker = start(closed=closed, access=OWN if closed else None, plugins=plugins)
    with RawClient(broker) as first, RawClient(broker) as again, RawClient(broker) as reader:
        first.try_login("pi", clean=False, will="pi/state")
        first.send(DISCONNECT)
        assert first.closed()
        again.try_login("pi", clean=False, will="pi/state", will_retain=True)
        again.barrier()
        again.socket.shutdown(socket.SHUT_WR)
        assert again.closed()
        reader.login("root")
        assert [packet.topic for packet in _retained(reader, reader)] == (["pi/state"] if closed else [])


@both
def test_retaining(start: Start, closed: bool) -> None:
    """Plain: who may publish may also have the broker keep it."""
    broker = start(closed=closed, access=allow(("ask", (Action.PUBLISH,))))
    with RawClient(broker) as app, RawClient(broker) as reader:
        app.login("pi")
        app.publish_acknowledged("ask", b"again and again", retain=True)
        app.barrier()
        reader.login("root")
        assert [packet.topic for packet in _retained(reader, reader)] == ([] if closed else ["ask"])


@own_rules
@both
def test_wildcards(start: Start, closed: bool) -> None:
    """Plain: amqtt's own rules take a filter for covered by a narrower one."""
    access = allow(("dev/+", (Action.SUBSCRIBE, Action.RECEIVE)))
    broker = start(closed=True, access=access) if closed else start(closed=False, plugins=_own_rules("dev/+"))
    with RawClient(broker) as client:
        client.login("pi")
        codes, _ = client.subscribe_all(["dev/#", "dev/1", "dev/+", "#"])
        assert codes == [REFUSED if closed else 1, 1, 1, REFUSED]


@own_rules
@both
def test_rule_with_a_name_to_put_in(start: Start, closed: bool) -> None:
    """Plain: amqtt's own rules have no word for the name of whoever asks."""
    broker = start(closed=True, access=OWN) if closed else start(closed=False, plugins=_own_rules("%u/#", "%c/#"))
    with RawClient(broker) as client:
        codes, _ = client.login("pi").subscribe_all(["pi/ask", "gpu/ask"])
        assert codes == [1 if closed else REFUSED, REFUSED]


@own_rules
@both
def test_receiving_what_is_published(start: Start, closed: bool) -> None:
    """Plain: amqtt's own rules have no word for receiving; who may subscribe is sent everything."""
    access = allow(("dev/+", (Action.SUBSCRIBE,)), ("dev/1", (Action.RECEIVE,)))
    broker = start(closed=True, access=access) if closed else start(closed=False, plugins=_own_rules("dev/+"))
    with RawClient(broker) as client, RawClient(broker) as speaker:
        client.login("pi").subscribe("dev/+")
        speaker.login("root")
        for topic in ("dev/2", "dev/1"):
            speaker.publish_acknowledged(topic)
        assert client.read().topic == ("dev/1" if closed else "dev/2")


@both
def test_receiving_what_is_retained(start: Start, closed: bool) -> None:
    """Plain: nobody is asked who may receive what is retained."""
    access = allow(("dev/+", (Action.SUBSCRIBE,)), ("dev/1", (Action.RECEIVE,)))
    broker = start(closed=closed, access=access)
    with RawClient(broker) as client, RawClient(broker) as speaker:
        speaker.login("root")
        speaker.publish_acknowledged("dev/1", b"mine", retain=True)
        speaker.publish_acknowledged("dev/2", b"not mine", retain=True)
        speaker.barrier()
        kept = _retained(client.login("pi"), speaker, "dev/+", "dev/1")
        assert {packet.topic for packet in kept} == ({"dev/1"} if closed else {"dev/1", "dev/2"})


@pytest.mark.parametrize("topic_filter", ["$share/group/topic", ""], ids=["shared", "empty"])
@both
def test_filter_that_is_none(start: Start, closed: bool, topic_filter: str) -> None:
    """Plain: a shared subscription is granted, and so is nothing at all; nothing ever comes."""
    broker = start(closed=closed)
    with RawClient(broker) as client:
        codes, _ = client.connect("client").subscribe_all([topic_filter])
        assert codes == [REFUSED if closed else 1]


class Busy(BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets everybody do everything; whenever it is asked, somebody subscribes to something new as soon as he can."""

    fresh = 0

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        if action == AmqttAction.RECEIVE:
            Busy.fresh += 1
            self.adding = asyncio.ensure_future(self.context.add_subscription("reader", f"fresh/{Busy.fresh}", 1))
        return True


@both
def test_subscribing_while_a_message_is_passed_on(start: Start, closed: bool) -> None:
    """Plain: a subscription made while plugins are asked ends the passing on of the message."""
    plugins: Plugins = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {},
        "tests.broker.test_hardened_access.Busy": {},
    }
    broker = start(closed=closed, plugins=plugins)
    with RawClient(broker) as first, RawClient(broker) as second, RawClient(broker) as third:
        first.connect("reader").subscribe("topic")
        second.connect("second").subscribe("+")
        third.connect("third").subscribe("#")
        first.publish("topic")
        assert second.receives()
        assert third.receives() == closed


@both
def test_persistent_after_clean(start: Start, closed: bool) -> None:
    """Plain: a client that wants a lasting session while its clean one is there gets one that does not last."""
    plugins: Plugins | None = None if closed else {NAMES: {}}
    broker = start(closed=closed, access=OWN if closed else None, plugins=plugins)
    with RawClient(broker) as early, RawClient(broker) as later, RawClient(broker) as app, RawClient(broker) as back:
        early.login("pi")
        later.login("pi", clean=False).subscribe("pi/ask")
        later.send(DISCONNECT)
        assert later.closed()
        app.login("root").publish_acknowledged("pi/ask")
        app.barrier()
        back.login("pi", clean=False)
        assert [packet.topic for packet in back.barrier()] == (["pi/ask"] if closed else [])


def _own_rules(*may_subscribe: str) -> Plugins:
    """Return plugins of plain amqtt by which `pi` may subscribe to these filters and everybody may publish."""
    own = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
    return {NAMES: {}, own: {"acl": {"pi": list(may_subscribe)}, "publish_acl": {}}}


def _retained(client: RawClient, speaker: RawClient, topic_filter: str = "#", sure: str = "sure") -> list[Packet]:
    """Return what a subscription brings before a message that the speaker then publishes at a topic."""
    client.subscribe(topic_filter)
    speaker.publish(sure, b"end")
    packets = []
    while (packet := client.read()).kind != PUBLISH or packet.payload != b"end":
        if packet.kind == PUBLISH and packet.flags & 6:
            client.acknowledge(packet.mid)
        packets.append(packet)
    return [packet for packet in packets if packet.kind == PUBLISH]

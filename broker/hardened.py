"""amqtt 0.12.1 with the gaps closed through which this system would lose messages, or strangers would reach them.

Each override names its gap, and `tests/broker/test_hardened*.py` show it on plain amqtt (all but connections that never
end). They lean on private methods, hence the pin to `==0.12.1`. Who may do what is decided by plugins of amqtt
(`broker.plugins`), and by a guard where amqtt does not ask them.

Known, and left alone:

- A message goes out at the QoS of the subscription, even if it was published at a lower one. A client that subscribes
  again at another QoS keeps the first.
- QoS 2 is not sent again after a reconnect.
- Nothing survives a restart.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from amqtt.adapters import StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action as AmqttAction
from amqtt.errors import AMQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, SERVER_UNAVAILABLE, ConnackPacket
from amqtt.mqtt.constants import QOS_0, QOS_1, QOS_2
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.puback import PubackPacket
from amqtt.session import INCOMING, OutgoingApplicationMessage

from broker.access import Action
from broker.backlog import Backlog, Kept
from broker.limits import BrokerLimits
from broker.packet_reader import PacketReader

if TYPE_CHECKING:
    import ssl

    from broker.access import Access
    from broker.guard import Guard

# amqtt's classes are untyped for us; what comes from it stays `Any` and does not leave this file.

_WATCH_SECONDS: Final = 1.0
_AT_ONCE: Final = 64
"""Retained messages that are looked at before others come in between."""
_REFUSED: Final = 0x80
"""In a SUBACK (MQTT 3.1.1, 3.9.3)."""
_OF_A_CONNECTION: Final = (
    "will_flag", "will_retain", "will_qos", "will_topic", "will_message", "username", "password", "keep_alive",
    "ssl_object", "remote_address", "remote_port",
)  # fmt: skip
"""What a session that is resumed takes over from the client's new connection."""


class HardenedHandler(BrokerProtocolHandler):  # type: ignore[misc]  # amqtt is not typed
    """One connection."""

    def __init__(self, broker: HardenedBroker) -> None:
        super().__init__(broker.plugins_manager)
        self.serving = False  # set up, and answering SUBSCRIBE
        self._broker = broker
        self._unsent = 0  # packets that wait for the socket
        self._sent_last = 0.0
        self._emptying = False  # the session's queue, into the socket
        self._exactly_once: set[asyncio.Task[Any]] = set()  # messages at QoS 2 that come in
        self._gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    # Gap: a DISCONNECT that comes while the connection is still being set up is forgotten, and the last will is
    # published all the same.

    def end(self, packet: Any = None) -> None:
        """End the connection: by this DISCONNECT, or without one, so that the last will follows."""
        if not self._gone.done():
            self._gone.set_result(packet)

    async def handle_disconnect(self, disconnect: Any) -> None:  # noqa: D102 - overrides
        self.end(disconnect)

    async def handle_connect(self, connect: Any) -> None:  # noqa: ARG002, D102 - overrides; MQTT-3.1.0-2
        self.end()

    async def wait_disconnect(self) -> Any:  # noqa: D102 - overrides
        return await asyncio.shield(self._gone)

    # Gap: nothing bounds the subscriptions that wait for an answer, nor the filters in one of them: a hundred thousand
    # keep everybody waiting for seconds.

    async def handle_subscribe(self, subscribe: Any) -> None:  # noqa: D102 - overrides
        if self._are_too_many(subscribe, self._pending_subscriptions):
            self.end()
        else:
            await super().handle_subscribe(subscribe)

    async def handle_unsubscribe(self, unsubscribe: Any) -> None:  # noqa: D102 - overrides
        if self._are_too_many(unsubscribe, self._pending_unsubscriptions):
            self.end()
        else:
            await super().handle_unsubscribe(unsubscribe)

    def _are_too_many(self, packet: Any, waiting: asyncio.Queue[Any]) -> bool:
        limits = self._broker.limits
        return waiting.qsize() >= limits.unsent or len(packet.payload.topics) > 2 * limits.subscriptions

    # Gap: keepalive is measured, and nothing follows from it, so the last will of a silent client never comes.

    def handle_read_timeout(self) -> None:  # noqa: D102 - overrides
        self.end()

    # Gap: a client that stops reading but goes on pinging is never given up; what is sent to it piles up in memory, and
    # the end of its connection waits until it has read everything.
    #
    # Gap: what cannot be sent since the connection is gone is logged with a traceback for each packet.

    async def _send_packet(self, packet: Any) -> None:
        if self.writer is None or self.writer._writer.transport.is_closing():
            return
        limit, reader = self._broker.limits.unsent, self.reader
        self._unsent += 1
        if self._unsent == 1:
            self._sent_last = self._loop.time()
        elif self._unsent == limit:
            reader.welcome.clear()  # who does not read the answers is not to send more
        try:
            await super()._send_packet(packet)
        finally:
            self._unsent -= 1
            self._sent_last = self._loop.time()
            if self._unsent < limit:
                reader.welcome.set()
            if self._unsent == 0 and self.serving and not self.session.retained_messages.empty():
                self._broker.send_later(self)

    def look(self, now: float) -> None:
        """Take nothing more from a client that does not read what it is sent, and give it up in the end."""
        silent = now - self._sent_last if self._unsent else 0.0
        if silent > self._broker.limits.write_seconds:
            self.logger.warning("a client does not read what it is sent: its connection is ended")
            self.abort()
        elif silent > _WATCH_SECONDS:
            # amqtt keeps whatever is done with behind a packet that is not.
            self.reader.welcome.clear()

    def abort(self) -> None:
        """End the connection without sending what waits for it."""
        if self.writer is not None:
            self.writer._writer.transport.abort()
        self.end()

    # Gap: a client that comes and goes quickly leaves connections that never end: the reading of the old one is
    # cancelled before it has begun, or while it has a packet, and everybody waits for its end.

    async def stop(self) -> None:  # noqa: D102 - overrides
        if self.writer is not None and self.writer._writer.transport.get_write_buffer_size() > 0:
            self.abort()
        for task in self._exactly_once:
            task.cancel()
        if self._reader_task is not None:
            self.reader.over = True
            await self._reader_ready.wait()
        await super().stop()

    # Gap: a message received is acknowledged, put aside and passed on later, or never if its sender leaves at once;
    # a topic that begins with $ ends the passing on but not the connection. Here it is passed on, then acknowledged.
    #
    # Gap: a QoS 1 message sent is dropped when its connection ends, or when it is not acknowledged within 5 s. Here it
    # stays with the session until PUBACK, and nobody waits for that.
    #
    # Gap: nothing bounds what is sent but not acknowledged, or received but not released. While one message is not
    # released, every packet that follows it stays in memory.

    async def _handle_message_flow(self, message: Any) -> None:
        if self.session is None:
            raise AMQTTError("a message needs a session")
        if message.direction == INCOMING:
            await self._take(message)
        elif self._clogged() and message.qos == QOS_0:
            self.logger.info("a QoS 0 message is dropped: its client does not read as fast as it is sent to")
        elif message.qos == QOS_1 and (self._clogged() or not self.session.retained_messages.empty()):
            self._broker.keep(self.session, Kept(message.topic, bytes(message.data), QOS_1, message.retain))
        elif message.qos == QOS_1:
            await self._send_until_acknowledged(message)
        else:
            await super()._handle_message_flow(message)

    async def _take(self, message: Any) -> None:
        if message.qos not in (QOS_0, QOS_1):
            # Gap: a message at a QoS that is none (MQTT-3.3.1-4) is dropped, and its connection stays.
            if message.qos != QOS_2 or len(self.session.inflight_in) >= self._broker.limits.inflight:
                self.end()
            else:
                task = asyncio.ensure_future(super()._handle_message_flow(message))
                self._exactly_once.add(task)
                task.add_done_callback(self._exactly_once.discard)
                self._broker.remember(task)
        elif not await self._broker._handle_message_delivery(self.session, self, _done(message)):
            self.end()
        elif message.qos == QOS_1:
            await self._send_packet(PubackPacket.build(message.packet_id))

    async def _send_until_acknowledged(self, message: Any) -> None:
        self.session.inflight_out[message.packet_id] = message
        packet = message.build_publish_packet(dup=message.publish_packet is not None)
        message.publish_packet = packet
        await self._send_packet(packet)

    def _clogged(self) -> bool:
        limits = self._broker.limits
        return len(self.session.inflight_out) >= limits.inflight or self._unsent >= limits.unsent

    async def handle_puback(self, puback: Any) -> None:  # noqa: D102 - overrides
        if self.session is not None:
            self.session.inflight_out.pop(puback.variable_header.packet_id, None)
            await self.send_kept()

    async def send_kept(self) -> None:
        """Send what waits for the client, as far as it may be sent."""
        if self._emptying:
            return
        self._emptying = True
        try:
            while self.has_kept() and not self._clogged():
                kept = self.session.retained_messages.get_nowait()
                if await self._broker._topic_filtering(self.session, kept.topic, AmqttAction.RECEIVE):
                    mid = self.session.next_packet_id
                    await self._send_until_acknowledged(
                        OutgoingApplicationMessage(mid, kept.topic, QOS_1, kept.data, kept.retain)
                    )
        finally:
            self._emptying = False

    def has_kept(self) -> bool:
        """Whether something waits for the client, and this is the connection to send it by."""
        session = self.session
        if session is None or session.retained_messages.empty() or self._gone.done():
            return False
        return self._broker._get_handler(session) is self

    async def _retry_deliveries(self) -> None:
        if self.session is None:
            return
        for message in list(self.session.inflight_out.values()):
            await self._send_until_acknowledged(message)


class HardenedBroker(Broker):  # type: ignore[misc]  # amqtt is not typed
    """The broker.

    Args:
        config: amqtt's.
        limits: what clients may take.
        guard: decides about what amqtt does not ask its plugins; None lets everybody do everything.
        tls: settings of the listener; None for none.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        limits: BrokerLimits | None = None,
        guard: Guard | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config)
        self.limits = limits or BrokerLimits()
        self._guard = guard
        self._tls = tls
        self._connections: dict[asyncio.StreamWriter, PacketReader] = {}
        self._sending: set[asyncio.Task[Any]] = set()
        self._retained_bytes = 0
        self._filters: dict[str, set[str]] = {}  # by client id

    def replace_access(self, access: Access) -> None:
        """Decide by other rules from now on, and part with those whom they do not know."""
        if self._guard is None:
            return
        self._guard.replace(access)
        for client_id, (session, handler) in list(self._sessions.items()):
            if not self._guard.knows(session.username):
                session.clean_session = True  # amqtt forgets it once its connection has ended
                session.clear_queues()
                handler.end()
                self.logger.warning(
                    "%s is no longer known: its connection is ended and its session forgotten", client_id
                )

    # Connections

    # Gap: TLS is set up without a revocation list, takes clients without certificate, and waits a minute for a client
    # that does not shake hands.

    async def _create_server_instance(self, listener_name: str, _type: Any, address: str, port: int, _tls: Any) -> Any:
        return await asyncio.start_server(
            partial(self.stream_connected, listener_name=listener_name),
            address,
            port,
            reuse_address=True,
            ssl=self._tls,
            ssl_handshake_timeout=self.limits.connect_seconds if self._tls is not None else None,
        )

    # Gap: a connection on which CONNECT never comes is not closed, not even by the shutdown, which may wait for it.
    # Gap: at the limit of connections further ones are accepted and kept waiting, in any number. A packet may have any
    # length, and take any time.

    async def stream_connected(  # noqa: D102 - overrides
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        if len(self._connections) >= self.limits.connections:
            self.logger.warning("%d connections are all there may be: one more is closed", len(self._connections))
            writer.transport.abort()
            return
        packets = self._connections[writer] = PacketReader(reader, most_bytes=self.limits.packet_bytes)
        try:
            await self._client_connected(listener_name, packets, StreamWriterAdapter(writer))
        finally:
            del self._connections[writer]
            writer.close()

    async def _session_monitor(self) -> None:
        watch = asyncio.ensure_future(self._watch())
        try:
            await super()._session_monitor()
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """End connections on which nothing moves any more; one clock for all is cheaper than one for each packet."""
        clock, limits = asyncio.get_running_loop().time, self.limits
        while True:
            await asyncio.sleep(min(_WATCH_SECONDS, limits.packet_seconds, limits.write_seconds))
            now = clock()
            for writer, packets in self._connections.items():
                if packets.began is not None and now - packets.began > limits.packet_seconds:
                    self.logger.warning("a packet does not end: its connection is ended")
                    writer.transport.abort()
            for _, handler in self._sessions.values():
                handler.look(now)

    async def shutdown(self) -> None:  # noqa: D102 - overrides
        for writer in self._connections:
            writer.close()
        await super().shutdown()

    # Gap: a CONNECT kicks the session of its client id, takes it over or wipes it before anybody is asked whether its
    # sender may connect at all; anybody may take over anybody's session. Last wills are not asked about.
    # Here nothing is touched before the client is known, and a client's id is its name (`broker.guard`).

    async def _initialize_client_session(
        self, reader: Any, writer: Any, remote_address: str, remote_port: int
    ) -> tuple[Any, Any]:
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                _, arriving = await BrokerProtocolHandler.init_from_connect(reader, writer, self.plugins_manager)
        except TimeoutError as error:
            raise AMQTTError(f"{remote_address}:{remote_port} did not say CONNECT in time") from error
        code = await self._refusal(arriving)
        if code is not None:
            await ConnackPacket.build(0, code).to_stream(writer)
            raise AMQTTError(f"{arriving.client_id!r} from {remote_address} is refused with code {code}")
        session = await self._session(arriving)
        # The limit is one and a half times what the client promised (MQTT-3.1.2-24); amqtt would take it as it is.
        keepalive = min(session.keep_alive or self.limits.keepalive_seconds, self.limits.keepalive_seconds)
        session.keep_alive = keepalive + (keepalive + 1) // 2
        return HardenedHandler(self), session

    async def _refusal(self, arriving: Any) -> int | None:
        """Return the code with which a client is to be refused, if it is."""
        if not await super()._authenticate(arriving, None):
            return int(NOT_AUTHORIZED)
        if arriving.will_flag and not await self._may_leave(arriving):
            self.logger.warning("%s may not leave its last will at %r", arriving.client_id, arriving.will_topic[:200])
            return int(NOT_AUTHORIZED)
        if arriving.client_id not in self._sessions and len(self._sessions) >= self.limits.sessions:
            self.logger.warning(
                "%d sessions are all there may be: %s is refused", len(self._sessions), arriving.client_id
            )
            return int(SERVER_UNAVAILABLE)
        return None

    async def _may_leave(self, arriving: Any) -> bool:
        topic = arriving.will_topic
        if not topic or "#" in topic or "+" in topic or topic.startswith("$"):
            return False
        return await self._topic_filtering(arriving, topic, AmqttAction.PUBLISH) and (
            self._may(arriving, Action.WILL, topic)
            and (not arriving.will_retain or self._may(arriving, Action.RETAIN, topic))
        )

    async def _session(self, arriving: Any) -> Any:
        """Return the session of a client that may connect: its old one, if both are to be kept."""
        known, _ = self._sessions.get(arriving.client_id, (None, None))
        if known is not None and not known.clean_session and not arriving.clean_session:
            for attribute in _OF_A_CONNECTION:
                setattr(known, attribute, getattr(arriving, attribute))
            known.parent = 1
            return known
        await self._delete_session(arriving.client_id)
        arriving.parent = 0
        # Gap: messages for a client without a user name are not kept while it is away, whatever session it asked for.
        arriving.is_anonymous = False
        arriving.retained_messages = Backlog(self.limits.queued_messages, self.limits.queued_bytes)
        return arriving

    async def _authenticate(self, session: Any, listener: Any) -> bool:  # noqa: ARG002 - overrides
        return True  # was asked before the session was touched

    async def _delete_session(self, client_id: str) -> None:
        # Gap: a client that returns with a clean session leaves its old connection open, and the last will of that
        # one comes much later, when the client has long said that it is there.
        _, handler = self._sessions.get(client_id, (None, None))
        if handler is not None:
            handler.end()
        await super()._delete_session(client_id)

    # Rights

    def _may(self, session: Any, action: Action, topic: str) -> bool:
        return self._guard is None or self._guard.may(session.username, action, topic)

    async def _topic_filtering(self, session: Any, topic: str, action: Any) -> bool:
        for plugin in self.plugins_manager._topic_plugins:
            if not await plugin.topic_filtering(session=session, topic=topic, action=action):
                return False
        return True

    async def _handle_message_delivery(self, session: Any, handler: Any, delivered: Any) -> bool:
        message = delivered.result()
        # Gap: plugins are not asked about retaining.
        if message.retain and not self._may(session, Action.RETAIN, message.topic):
            self.logger.info("%s may not retain at %s", session.client_id, message.topic)
            return True
        passed_on: bool = await super()._handle_message_delivery(session, handler, delivered)
        return passed_on

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:  # noqa: D102 - overrides
        # Gap: `$share` is granted and never delivers; so is any QoS up to 255. The number of a client's filters is not
        # bounded.
        topic_filter, qos = subscription
        current, _ = self._sessions.get(session.client_id, (None, None))
        if topic_filter.startswith("$") or not topic_filter or qos > QOS_2 or current is not session:
            return _REFUSED
        has = self._filters.setdefault(session.client_id, set())
        if topic_filter not in has and len(has) >= self.limits.subscriptions:
            return _REFUSED
        granted: int = await super().add_subscription(subscription, session)
        if granted != _REFUSED:
            has.add(topic_filter)
        return granted

    # Gap: every filter that anybody ever had is kept after the last UNSUBSCRIBE, and gone through for each message.

    def _del_subscription(self, a_filter: str, session: Any) -> int:
        deleted: int = super()._del_subscription(a_filter, session)
        if deleted:
            self._filters[session.client_id].remove(a_filter)
            if not self._subscriptions[a_filter]:
                del self._subscriptions[a_filter]
        return deleted

    async def _del_all_subscriptions(self, session: Any) -> None:
        for topic_filter in list(self._filters.get(session.client_id, ())):
            self._del_subscription(topic_filter, session)
        self._filters.pop(session.client_id, None)

    # Retained and kept messages

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        # Gap: on connect, retained messages that match anybody's filter are sent to the newcomer. They belong to the
        # answer to SUBSCRIBE (MQTT-3.3.1-6), and to nothing else. Plugins are not asked whether it may receive them.
        handler = self._get_handler(session)
        if handler is None or not handler.serving:
            return
        topic_filter, qos = subscription
        await asyncio.sleep(0)  # others come in between
        for number, (topic, retained) in enumerate(list(self._retained_messages.items()), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if not self._matches(topic, topic_filter):
                continue
            allowed = await self._topic_filtering(session, topic, AmqttAction.RECEIVE)
            # What has come in its place meanwhile was passed on already, and must be the last that the client hears.
            if allowed and self._retained_messages.get(topic) is retained:
                await handler.mqtt_publish(topic, retained.data, min(qos, retained.qos), retain=True)

    async def retain_message(self, source_session: Any, topic_name: str, data: Any, qos: int | None = None) -> None:  # noqa: D102 - overrides
        # Gap: what is retained is not bounded.
        known = self._retained_messages.get(topic_name)
        before = 0 if known is None else len(topic_name) + len(known.data)
        after = len(topic_name) + len(data) if data else 0
        if after > before and (
            self._retained_bytes - before + after > self.limits.retained_bytes
            or (known is None and len(self._retained_messages) >= self.limits.retained_messages)
        ):
            self.logger.warning("no more can be retained: the message at %s is not", topic_name[:200])
            return
        self._retained_bytes += after - before
        await super().retain_message(source_session, topic_name, data, qos or QOS_0)

    def keep(self, session: Any, kept: Kept) -> None:
        """Put a message aside for a client that cannot be sent to now, if not too many wait for it already."""
        try:
            session.retained_messages.put_nowait(kept)
        except asyncio.QueueFull:
            self.logger.warning("too much waits for %s: a message at %s is dropped", session.client_id, kept.topic)

    def send_later(self, handler: HardenedHandler) -> None:
        """Have what waits for a client sent now that its socket is free again."""
        if handler.has_kept():
            self.remember(asyncio.ensure_future(handler.send_kept()))

    def remember(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it is done, and log what ended it otherwise."""
        self._sending.add(task)
        task.add_done_callback(self._sent)

    async def _publish_session_retained_messages(self, session: Any) -> None:
        # Gap: messages kept for a client that was away arrive with the retain flag, as if they were state.
        handler = self._get_handler(session)
        if handler is not None:
            await handler.send_kept()

    # A connection's life

    async def _client_message_loop(self, session: Any, handler: Any) -> None:
        # Gap: when a client returns before its old connection was seen to end, the end of the old one marks the
        # session as away, and everything for it is put aside until it connects once more.
        if not session.transitions.is_connected():
            session.transitions.connect()
            await self._publish_session_retained_messages(session)
        handler.serving = True
        workers = [
            asyncio.ensure_future(serve(session, handler))
            for serve in (self._serve_subscribe, self._serve_unsubscribe, self._serve_exactly_once)
        ]
        try:
            await self._handle_disconnect(session, handler, _done(await handler.wait_disconnect()))
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _handle_disconnect(self, session: Any, handler: Any, disconnect_waiter: Any) -> None:
        await super()._handle_disconnect(session, handler, disconnect_waiter)
        current = self._sessions.get(session.client_id)
        if current is not None and current[0] is session and current[1] is not handler:
            session.transitions.connect()  # the client is back already, see above

    async def _serve_subscribe(self, session: Any, handler: Any) -> None:
        while True:
            await self._handle_subscription(session, handler, _done(await handler.get_next_pending_subscription()))

    async def _serve_unsubscribe(self, session: Any, handler: Any) -> None:
        while True:
            await self._handle_unsubscription(session, handler, _done(await handler.get_next_pending_unsubscription()))

    async def _serve_exactly_once(self, session: Any, handler: Any) -> None:
        while True:
            await self._handle_message_delivery(session, handler, _done(await session.delivered_message_queue.get()))

    # Gap: subscriptions that change while a message is passed on end the passing on. amqtt asks its plugins in between,
    # in tasks of their own. (It also passes each message through a queue and three tasks, and writes payloads into log
    # lines that nobody reads; without that, a message takes half of the time.)

    async def _broadcast_message(self, session: Any, topic: str, data: Any, force_qos: int | None = None) -> None:  # noqa: ARG002 - overrides
        matching = [
            (target, granted if force_qos is None else force_qos)
            for topic_filter, subscriptions in self._subscriptions.items()
            if self._matches(topic, topic_filter)
            for target, granted in subscriptions
        ]
        for target, qos in matching:
            handler = self._get_handler(target)
            if not await self._topic_filtering(target, topic, AmqttAction.RECEIVE):
                self.logger.info("%s may not receive what is published at %s", target.client_id, topic)
            elif target.transitions.is_connected() and handler is not None:
                self.remember(asyncio.ensure_future(handler.mqtt_publish(topic, data, qos, retain=False)))
            elif qos != QOS_0 and not target.clean_session:
                # Gap: messages kept for a client that is away are not bounded.
                self.keep(target, Kept(topic, bytes(data), QOS_1))

    def _sent(self, task: asyncio.Task[Any]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("a message could not be sent: %s", error)

    async def _broadcast_loop(self) -> None:
        await self._broadcast_shutdown_waiter


def _done(result: Any) -> asyncio.Future[Any]:
    # amqtt's handlers take finished futures.
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future

"""The rules of an access file as plugins of amqtt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from broker.access import Action
from broker.guard import Guard  # noqa: TC001 - amqtt looks the options' types up


class AccessAuthPlugin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets in who has a certificate, or the password, of an identity."""

    @dataclass
    class Config:
        """Options: what decides."""

        guard: Guard

    async def authenticate(self, *, session: Any) -> bool:
        """Whether the session is somebody's."""
        admitted: bool = await self.config.guard.admit(session)
        return admitted


class AccessTopicPlugin(BaseTopicPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Lets identities publish, subscribe and receive by their rules. amqtt does not ask about retaining and wills."""

    @dataclass
    class Config:
        """Options: what decides."""

        guard: Guard

    async def topic_filtering(self, *, session: Any = None, topic: str | None = None, action: Any = None) -> bool:
        """Whether the session may."""
        allowed: bool = self.config.guard.may(session.username, Action(str(action)), topic or "")
        return allowed

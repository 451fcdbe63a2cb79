# SPDX-License-Identifier: GPL-2.0-or-later
"""What the gate takes and gives: its settings, identities, logins and refusals. Pure."""

from typing import NamedTuple

from spind.config_options import Config
from spind.web.messages import RefusedError


class LoginError(RefusedError):
    """Nobody was let in. ``retry_after`` is in seconds; 0 where waiting does not help."""

    @property
    def sentence(self) -> str:
        """Why, for people."""
        return str(self)


class Identity(NamedTuple):
    """Who is asking. ``role`` is what counts: an access provider who may only look is a viewer."""

    name: str
    role: str
    """viewer, owner or provider"""

    via: str
    """open, session or token"""

    account_role: str = ""
    """The role that the account has: provider, where ``role`` is viewer for that reason."""

    @property
    def may_write(self) -> bool:
        """Whether methods that change something are allowed at all."""
        return self.role != "viewer"


class Login(NamedTuple):
    """A session that has begun. ``seconds`` is how long it lasts at most; ``notice`` is for its user."""

    cookie: str
    identity: Identity
    seconds: int
    notice: str = ""


class GateSettings(NamedTuple):
    """The options that it obeys."""

    interfaces: tuple[str, ...] = ("127.0.0.1",)
    password_file: str = ""
    token_file: str = ""
    provider: str = "off"

    @classmethod
    def of(cls, config: Config) -> "GateSettings":
        """Those of a configuration."""
        return cls(
            config.spinweb_interfaces,
            config.spinweb_password_file,
            config.spinweb_token_file,
            config.spinweb_provider,
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods about what people should hear of. Pure."""

from spind import notifications
from spind.calls import NotFoundError
from spind.desk import Desk
from spind.shapes import Json


class NotificationDeeds:
    """Lists notifications, and takes them off the list."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def list_notifications(self, since: int = 0, limit: int = 100, offset: int = 0) -> Json:
        """A page of them, the latest first."""
        found = [one for one in self._desk.engine.notifications if one.time >= since]
        found.reverse()
        return self._desk.views.page(found, limit, offset, notifications.to_json)

    def dismiss_notification(self, id: int) -> None:  # noqa: A002 - the argument's name on the wire
        """Take one off the list; nothing else remembers it."""
        book = self._desk.engine.notifications
        if not book.dismiss(id):
            raise NotFoundError(f"id: there is no notification {id}")
        self._desk.tell(book.take())

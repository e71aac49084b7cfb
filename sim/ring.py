"""A linked list whose entries are put anywhere, moved and taken out in constant time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar


class Entry:
    """What can be in one :class:`Ring`."""

    __slots__ = ("next", "prev")

    prev: Any
    next: Any


E = TypeVar("E", bound=Entry)


class Ring(Generic[E]):
    """Entries in an order.

    Attributes:
        end: Closes the list to a ring: the first entry is ``end.next``, the last one ``end.prev``.
    """

    def __init__(self, end: E):
        self.end = end
        end.prev = end.next = end

    def __iter__(self) -> Iterator[E]:
        """Entries, first to last; the one that was given last may be taken out."""
        entry = self.end.next
        while entry is not self.end:
            yield entry
            entry = entry.next

    def append(self, entry: E) -> None:
        """Put an entry last."""
        end = self.end
        last = end.prev
        entry.prev, entry.next = last, end
        last.next = end.prev = entry

    def insert(self, entry: E, after: E | None) -> None:
        """Put an entry behind another one; behind none, it is the first."""
        before = self.end if after is None else after
        entry.prev, entry.next = before, before.next
        before.next.prev = entry
        before.next = entry

    def remove(self, entry: E) -> None:
        """Take an entry out."""
        entry.prev.next = entry.next
        entry.next.prev = entry.prev

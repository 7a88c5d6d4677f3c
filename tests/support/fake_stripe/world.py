"""What there is at Stripe: objects by id, the events of what happened to them, and a clock."""

import copy
import itertools
import threading
import time
from functools import wraps

from support.fake_stripe import shapes
from support.fake_stripe.faults import no_such


def happening(act):
    """Make `act` happen in one piece, between two requests."""

    @wraps(act)
    def at_once(self, *args, **more):
        with self.lock:
            return act(self, *args, **more)

    return at_once


class World:
    """The objects, events and clock; its subclasses say what can happen."""

    def __init__(self, *, now=None):
        super().__init__()
        self.lock = threading.RLock()
        self.objects = {}
        self.events = []
        self.asked = {}
        self._numbers = itertools.count(1)
        self._fixed, self._ahead_s = now, 0

    @property
    def now(self):
        """The time in seconds since 1970, by the clock that a test may move."""
        return (int(time.time()) if self._fixed is None else self._fixed) + self._ahead_s

    def new_id(self, prefix):
        return f"{prefix}_fake{next(self._numbers):06d}"

    def add(self, obj):
        self.objects[obj["id"]] = obj
        return obj

    def find(self, kind, object_id, *, param=None):
        """Give the live object; `param` names the parameter that the id came in."""
        found = self.objects.get(object_id)
        if found is None or found["object"] != kind or (param and found.get("deleted")):
            raise no_such(kind, object_id, param=param)
        return found

    def all(self, kind, **where):
        """Give the objects of `kind` whose fields are as in `where`, newest first."""
        return [
            each
            for each in reversed(self.objects.values())
            if each["object"] == kind
            and all(value is None or each[name] == value for name, value in where.items())
        ]

    def emit(self, kind, obj, previous=None):
        """Write down that something happened, with the object as it is now."""
        snapshot = copy.deepcopy(obj)
        event = shapes.event(self.new_id("evt"), self.now, kind, snapshot, previous)
        self.events.append(event)

    def change(self, kind, obj, **fields):
        """Set `fields` of `obj`, and emit the event `kind` with what they were."""
        previous = {name: copy.deepcopy(obj[name]) for name in fields if obj[name] != fields[name]}
        obj.update(fields)
        self.emit(kind, obj, previous if kind.endswith(".updated") else None)

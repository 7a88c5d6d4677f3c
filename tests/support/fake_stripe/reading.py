"""What can be looked up: objects, filtered lists and their pages, and what is in their ids."""

import copy

from support.fake_stripe import shapes
from support.fake_stripe.faults import ApiError, no_such
from support.fake_stripe.subscriptions import Subscriptions

PAGING = {"limit", "starting_after", "ending_before", "expand", "created"}
FILTERS = {"customer", "payment_intent", "charge", "subscription", "email", "status", "invoice"}


class Reading(Subscriptions):
    """The ways in which a call reads the world; nothing here changes it."""

    def filtered(self, kind, asked):
        """Give what `asked` filters by the fields of the same name, newest first."""
        where = {name: asked[name] for name in asked if name not in PAGING}
        if not where.keys() <= FILTERS:
            raise ApiError(501, f"The fake does not filter by {', '.join(where)}.")
        found = self.events[::-1] if kind == "event" else self.all(kind)
        found = [each for each in found if not each.get("deleted")]
        found = [each for each in found if all(each.get(name) == where[name] for name in where)]
        return [each for each in found if _is_within(each.get("created", 0), asked.get("created"))]

    def page(self, found, url, asked):
        limit = int(asked.get("limit", 10))
        if not 1 <= limit <= 100:
            raise ApiError(400, f"Invalid limit: {limit}", param="limit")
        ids = [each["id"] for each in found]
        start, end = 0, len(found)
        if "starting_after" in asked:
            start = _place(ids, asked["starting_after"]) + 1
        if "ending_before" in asked:
            end = _place(ids, asked["ending_before"])
            start = max(0, end - limit)
            return shapes.listing(found[start:end], url, has_more=start > 0)
        return shapes.listing(found[start : start + limit], url, has_more=end - start > limit)

    def find(self, kind, object_id, *, param=None):
        """Find an event too, which is no object of the world."""
        for event in self.events if kind == "event" else ():
            if event["id"] == object_id:
                return event
        return super().find(kind, object_id, param=param)

    def expanded(self, obj, paths):
        """Give a copy of `obj` with what `paths` name in place of its ids."""
        obj = copy.deepcopy(obj)
        for path in paths:
            self._expand(obj, path.split("."), path)
        return obj

    def _expand(self, obj, names, path):
        name, *rest = names
        if isinstance(obj, list):
            for each in obj:
                self._expand(each, names, path)
            return
        if name not in obj and name in shapes.ON_DEMAND.get(obj.get("object"), ()):
            obj[name] = self._on_demand(obj, name)
        if name not in obj or (isinstance(obj[name], (str, int)) and obj[name] not in self.objects):
            raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
        if isinstance(obj[name], str):
            obj[name] = copy.deepcopy(self.objects[obj[name]])
        if rest and obj[name] is not None:
            self._expand(obj[name], rest, path)

    def _on_demand(self, obj, name):
        """Make the list that `obj` has under `name` only when it is asked for."""
        url = f"/v1/{name}"
        if name == "refunds":
            return shapes.listing(self.all("refund", charge=obj["id"]), url)
        if name == "payments":
            return shapes.listing(self.all("invoice_payment", invoice=obj["id"]), url)
        if name == "subscriptions":
            return shapes.listing(self.all("subscription", customer=obj["id"]), url)
        if name == "line_items":
            return shapes.listing(self.lines_of(obj), url)
        return None


def _is_within(created, span):
    if not isinstance(span, dict):
        return span is None or created == int(span)
    tests = {
        "gt": created.__gt__,
        "gte": created.__ge__,
        "lt": created.__lt__,
        "lte": created.__le__,
    }
    return all(tests[name](int(value)) for name, value in span.items())


def _place(ids, object_id):
    if object_id not in ids:
        raise no_such("object", object_id, param="starting_after")
    return ids.index(object_id)

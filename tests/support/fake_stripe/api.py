"""What the fake answers to the calls of its clients."""

import copy
import re
from fnmatch import fnmatchcase
from functools import cache

import stripe
from support.fake_stripe import params, shapes
from support.fake_stripe.faults import ApiError, no_such
from support.fake_stripe.subscriptions import Subscriptions

EVENTS_KEPT_S = 30 * 86_400

# Each row: a call, the method of `Api` that answers it, and the type of its parameters. An
# object of the kind `find:KIND` or `all:KIND` is simply looked up.
ROUTES = (
    ("POST", "/v1/customers", "create_customer", "CustomerCreateParams"),
    ("GET", "/v1/customers", "all:customer", "CustomerListParams"),
    ("GET", "/v1/customers/{id}", "find:customer", "CustomerRetrieveParams"),
    ("POST", "/v1/customers/{id}", "update_customer", "CustomerUpdateParams"),
    ("DELETE", "/v1/customers/{id}", "remove_customer", "CustomerDeleteParams"),
    ("GET", "/v1/prices", "list_prices", "PriceListParams"),
    ("GET", "/v1/prices/{id}", "find:price", "PriceRetrieveParams"),
    ("POST", "/v1/checkout/sessions", "create_session", "checkout.SessionCreateParams"),
    ("GET", "/v1/checkout/sessions", "all:checkout.session", "checkout.SessionListParams"),
    (
        "GET",
        "/v1/checkout/sessions/{id}",
        "find:checkout.session",
        "checkout.SessionRetrieveParams",
    ),
    (
        "POST",
        "/v1/checkout/sessions/{id}/expire",
        "expire_session",
        "checkout.SessionExpireParams",
    ),
    ("GET", "/v1/payment_intents/{id}", "find:payment_intent", "PaymentIntentRetrieveParams"),
    ("GET", "/v1/payment_intents", "all:payment_intent", "PaymentIntentListParams"),
    ("GET", "/v1/charges/{id}", "find:charge", "ChargeRetrieveParams"),
    ("GET", "/v1/charges", "all:charge", "ChargeListParams"),
    ("POST", "/v1/refunds", "create_refund", "RefundCreateParams"),
    ("GET", "/v1/refunds/{id}", "find:refund", "RefundRetrieveParams"),
    ("GET", "/v1/refunds", "all:refund", "RefundListParams"),
    ("GET", "/v1/disputes/{id}", "find:dispute", "DisputeRetrieveParams"),
    ("GET", "/v1/disputes", "all:dispute", "DisputeListParams"),
    ("GET", "/v1/subscriptions/{id}", "find:subscription", "SubscriptionRetrieveParams"),
    ("GET", "/v1/subscriptions", "list_subscriptions", "SubscriptionListParams"),
    ("POST", "/v1/subscriptions/{id}", "update_subscription", "SubscriptionUpdateParams"),
    ("DELETE", "/v1/subscriptions/{id}", "end_subscription", "SubscriptionCancelParams"),
    ("GET", "/v1/invoices/{id}", "find:invoice", "InvoiceRetrieveParams"),
    ("GET", "/v1/invoice_payments", "all:invoice_payment", "InvoicePaymentListParams"),
    ("POST", "/v1/billing_portal/sessions", "create_portal", "billing_portal.SessionCreateParams"),
    ("GET", "/v1/events/{id}", "find:event", "EventRetrieveParams"),
    ("GET", "/v1/events", "list_events", "EventListParams"),
)


def route(method, path):
    """Find the row of a call, and the id in its path."""
    for verb, pattern, act, typed in ROUTES:
        found = re.fullmatch(pattern.replace("{id}", "(?P<object_id>[^/]+)"), path)
        if found and verb == method:
            return act, _typed(typed), found.groupdict()
    raise ApiError(404, f"Unrecognized request URL ({method}: {path}).")


@cache
def _typed(name):
    module = stripe.params
    for part in name.split("."):
        module = getattr(module, part)
    return module


class Api(Subscriptions):
    """The calls, each with its form `asked`."""

    def answer(self, method, path, asked):
        """Do what a call asks, and give the object that it is answered with."""
        act, typed, named = route(method, path)
        wrong = list(params.violations(asked, typed))
        if wrong:
            raise ApiError(400, f"{method} {path}: {'; '.join(wrong)}", code="parameter_unknown")
        what, _, kind = act.partition(":")
        if what == "find":
            found = self.find(kind, **named)
        elif what == "all":
            found = self._page(self._filtered(kind, asked), path, asked)
        else:
            found = getattr(self, what)(asked, **named)
        return self._expanded(found, asked.get("expand", []))

    def create_customer(self, asked):
        customer = self.add(shapes.customer(self.new_id("cus"), self.now, asked))
        self.emit("customer.created", customer)
        return customer

    def update_customer(self, asked, object_id):
        customer = self.find("customer", object_id)
        if customer.get("deleted"):
            raise no_such("customer", object_id)
        fields = {name: asked[name] for name in ("email", "name", "description") if name in asked}
        metadata = customer["metadata"] | asked.get("metadata", {})
        self.change("customer.updated", customer, metadata=metadata, **fields)
        return customer

    def remove_customer(self, asked, object_id):
        if self.find("customer", object_id).get("deleted"):
            raise no_such("customer", object_id)
        self.delete_customer(object_id)
        return self.objects[object_id]

    def list_prices(self, asked):
        prices = self._filtered("price", asked)
        if "lookup_keys" in asked:
            prices = [each for each in prices if each["lookup_key"] in asked["lookup_keys"]]
        if "active" in asked:
            prices = [each for each in prices if each["active"] == (asked["active"] == "true")]
        return self._page(prices, "/v1/prices", asked)

    def create_session(self, asked):
        cents, currency = self._checked_lines(asked)
        self._check_session(asked)
        session = shapes.checkout_session(
            self.new_id("cs"), self.now, asked, subtotal=cents, currency=currency
        )
        self.asked[session["id"]] = asked
        return self.add(session)

    def expire_session(self, asked, object_id):
        session = self.find("checkout.session", object_id)
        if session["status"] != "open":
            raise ApiError(400, "Only Checkout Sessions with a status in [open] can be expired.")
        self.expire(object_id)
        return session

    def create_refund(self, asked):
        payment = asked.get("payment_intent")
        if "charge" in asked:
            payment = self.find("charge", asked["charge"], param="charge")["payment_intent"]
        elif payment is None:
            raise ApiError(400, "One of the following params should be provided: charge.")
        self.find("payment_intent", payment, param="payment_intent")
        cents = int(asked["amount"]) if "amount" in asked else None
        more = {"reason": asked.get("reason"), "metadata": asked.get("metadata", {})}
        return self.find("refund", self.refund(payment, cents, **more))

    def list_subscriptions(self, asked):
        status = asked.get("status")
        found = self._filtered("subscription", asked | {"status": None})
        if status is None:
            found = [each for each in found if each["status"] != "canceled"]
        elif status != "all":
            found = [each for each in found if each["status"] == status]
        return self._page(found, "/v1/subscriptions", asked)

    def update_subscription(self, asked, object_id):
        subscription = self.find("subscription", object_id)
        fields = {}
        if "cancel_at_period_end" in asked:
            fields["cancel_at_period_end"] = asked["cancel_at_period_end"] == "true"
        if "cancel_at" in asked:
            fields["cancel_at"] = int(asked["cancel_at"]) if asked["cancel_at"] else None
        if "metadata" in asked:
            fields["metadata"] = subscription["metadata"] | asked["metadata"]
        self.set_subscription(object_id, **fields)
        return subscription

    def end_subscription(self, asked, object_id):
        subscription = self.find("subscription", object_id)
        if subscription["status"] == "canceled":
            raise no_such("subscription", object_id)
        self.cancel_subscription(object_id)
        return subscription

    def create_portal(self, asked):
        self.find("customer", asked.get("customer"), param="customer")
        return self.add(shapes.portal_session(self.new_id("bps"), self.now, asked))

    def list_events(self, asked):
        kinds = asked.get("types", [asked["type"]] if "type" in asked else ["*"])
        if len(kinds) > 20 or {"type", "types"} <= asked.keys():
            raise ApiError(400, "Pass up to 20 `types`, or one `type`.", param="types")
        found = [
            each
            for each in self._filtered("event", asked)
            if any(fnmatchcase(each["type"], kind) for kind in kinds)
            and each["created"] > self.now - EVENTS_KEPT_S
        ]
        return self._page(found, "/v1/events", asked)

    def _checked_lines(self, asked):
        """Give the sum of the lines in cents and their currency, if the mode can sell them."""
        lines = asked.get("line_items", [])
        if not lines:
            raise ApiError(400, "You must pass `line_items`.", param="line_items")
        sold = [self._sold(line) for line in lines]
        if (asked["mode"] == "subscription") != any(is_recurring for *_, is_recurring in sold):
            raise ApiError(400, "The prices do not fit the `mode`.", param="line_items")
        total = sum(
            cents * int(line.get("quantity", 1))
            for line, (cents, *_) in zip(lines, sold, strict=True)
        )
        if asked["mode"] == "payment" and total < 50:
            message = "The Checkout Session's total amount due must add up to at least $0.50 usd"
            raise ApiError(400, message, code="amount_too_small")
        return total, sold[0][1]

    def _sold(self, line):
        if "price" in line:
            price = self.find("price", line["price"], param="line_items[0][price]")
            if not price["active"]:
                raise ApiError(400, f"The price {price['id']} is inactive.", param="line_items")
            return price["unit_amount"], price["currency"], True
        data = line["price_data"]
        return int(data["unit_amount"]), data["currency"], "recurring" in data

    def _check_session(self, asked):
        if "customer" in asked:
            self.find("customer", asked["customer"], param="customer")
        for name in ("success_url", "cancel_url"):
            if name in asked and not re.match(r"https?://[^/\s]", asked[name]):
                raise ApiError(400, "Not a valid URL", code="url_invalid", param=name)
        if "success_url" not in asked:
            raise ApiError(400, "You must pass `success_url`.", param="success_url")
        other = "subscription" if asked["mode"] == "payment" else "payment_intent"
        if f"{other}_data" in asked:
            raise ApiError(400, f"You can not pass `{other}_data` in this mode.")
        lasts_s = int(asked.get("expires_at", self.now + 3600)) - self.now
        if not 1800 <= lasts_s <= 86_400:
            message = "`expires_at` must be between 30 minutes and 24 hours from now."
            raise ApiError(400, message, param="expires_at")

    def _filtered(self, kind, asked):
        """Give what `asked` filters by the fields of the same name, newest first."""
        names = ("customer", "payment_intent", "charge", "subscription", "email", "status")
        names += ("invoice", "product", "type") if kind != "event" else ()
        where = {name: asked[name] for name in names if asked.get(name) is not None}
        found = self.all(kind) if kind != "event" else self.events[::-1]
        found = [each for each in found if all(each.get(name) == where[name] for name in where)]
        return [each for each in found if _is_within(each.get("created", 0), asked.get("created"))]

    def _page(self, found, url, asked):
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

    def _expanded(self, obj, paths):
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
            lines = self.asked[obj["id"]]["line_items"]
            return shapes.listing([self._line_item(obj, line) for line in lines], url)
        return None

    def _line_item(self, session, line):
        cents, currency, _ = self._sold(line)
        price = self.objects.get(line.get("price"))
        return shapes.line_item(
            f"li_{session['id']}", line, amount=cents, currency=currency, price=price
        )


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

"""What the fake answers to the calls of its clients."""

import re
from fnmatch import fnmatchcase
from functools import cache

import stripe
from support.fake_stripe import params, shapes
from support.fake_stripe.faults import ApiError, no_such
from support.fake_stripe.reading import Reading

EVENTS_KEPT_S = 30 * 86_400

# Each row: a call, the method of `Api` that answers it, or `find:KIND` and `all:KIND` for what
# is only looked up, and the type of its parameters.
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


class Api(Reading):
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
            found = self.page(self.filtered(kind, asked), path, asked)
        else:
            found = getattr(self, what)(asked, **named)
        return self.expanded(found, asked.get("expand", []))

    def create_customer(self, asked):
        customer = self.add(shapes.customer(self.new_id("cus"), self.now, asked))
        self.emit("customer.created", customer)
        return customer

    def update_customer(self, asked, object_id):
        customer = self.find("customer", object_id)
        if customer.get("deleted"):
            raise no_such("customer", object_id)
        fields = {name: asked[name] for name in ("email", "name", "description") if name in asked}
        metadata = customer["metadata"] | (asked.get("metadata") or {})
        self.change("customer.updated", customer, metadata=metadata, **fields)
        return customer

    def remove_customer(self, asked, object_id):
        if self.find("customer", object_id).get("deleted"):
            raise no_such("customer", object_id)
        self.delete_customer(object_id)
        return self.objects[object_id]

    def list_prices(self, asked):
        prices = self.filtered("price", _without(asked, "lookup_keys", "active"))
        if "lookup_keys" in asked:
            prices = [each for each in prices if each["lookup_key"] in asked["lookup_keys"]]
        if "active" in asked:
            prices = [each for each in prices if each["active"] == (asked["active"] == "true")]
        return self.page(prices, "/v1/prices", asked)

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
        found = self.filtered("subscription", _without(asked, "status"))
        if status is None:
            found = [each for each in found if each["status"] != "canceled"]
        elif status != "all":
            found = [each for each in found if each["status"] == status]
        return self.page(found, "/v1/subscriptions", asked)

    def update_subscription(self, asked, object_id):
        subscription = self.find("subscription", object_id)
        fields = {}
        if "cancel_at_period_end" in asked:
            fields["cancel_at_period_end"] = asked["cancel_at_period_end"] == "true"
        if "cancel_at" in asked:
            fields["cancel_at"] = int(asked["cancel_at"]) if asked["cancel_at"] else None
        if "metadata" in asked:
            fields["metadata"] = subscription["metadata"] | (asked["metadata"] or {})
        self.set_subscription(object_id, **fields)
        return subscription

    def end_subscription(self, asked, object_id):
        subscription = self.find("subscription", object_id)
        if subscription["status"] == "canceled":
            raise no_such("subscription", object_id)
        self.cancel_subscription(object_id)
        return subscription

    def create_portal(self, asked):
        self.find("customer", _needed(asked, "customer"), param="customer")
        return self.add(shapes.portal_session(self.new_id("bps"), self.now, asked))

    def list_events(self, asked):
        kinds = asked.get("types", [asked["type"]] if "type" in asked else ["*"])
        if len(kinds) > 20 or {"type", "types"} <= asked.keys():
            raise ApiError(400, "Pass up to 20 `types`, or one `type`.", param="types")
        found = [
            each
            for each in self.filtered("event", _without(asked, "type", "types"))
            if any(fnmatchcase(each["type"], kind) for kind in kinds)
            and each["created"] > self.now - EVENTS_KEPT_S
        ]
        return self.page(found, "/v1/events", asked)

    def _checked_lines(self, asked):
        """Give the sum of the lines in cents and their currency, if the mode can sell them."""
        mode, lines = _needed(asked, "mode"), _needed(asked, "line_items")
        sold = [self._sold(line) for line in lines]
        if (mode == "subscription") != any(is_recurring for *_, is_recurring in sold):
            raise ApiError(400, "The prices do not fit the `mode`.", param="line_items")
        total = sum(
            cents * int(line.get("quantity", 1))
            for line, (cents, *_) in zip(lines, sold, strict=True)
        )
        if mode == "payment" and total < 50:
            message = "The Checkout Session's total amount due must add up to at least $0.50 usd"
            raise ApiError(400, message, code="amount_too_small")
        return total, sold[0][1]

    def _sold(self, line):
        if "price" in line:
            price = self.find("price", line["price"], param="line_items[0][price]")
            return price["unit_amount"], price["currency"], True
        data = _needed(line, "price_data")
        return int(_needed(data, "unit_amount")), data["currency"], "recurring" in data

    def _check_session(self, asked):
        if "customer" in asked:
            self.find("customer", asked["customer"], param="customer")
        for line in asked["line_items"]:
            if "price" in line and not self.objects[line["price"]]["active"]:
                raise ApiError(400, f"The price {line['price']} is inactive.", param="line_items")
        for name in ("success_url", "cancel_url"):
            if name in asked and not re.match(r"https?://[^/\s]", asked[name]):
                raise ApiError(400, "Not a valid URL", code="url_invalid", param=name)
        _needed(asked, "success_url")
        other = "subscription" if asked["mode"] == "payment" else "payment_intent"
        if f"{other}_data" in asked:
            raise ApiError(400, f"You can not pass `{other}_data` in this mode.")
        lasts_s = int(asked.get("expires_at", self.now + 3600)) - self.now
        if not 1800 <= lasts_s <= 86_400:
            message = "`expires_at` must be between 30 minutes and 24 hours from now."
            raise ApiError(400, message, param="expires_at")

    def lines_of(self, session):
        lines = []
        for at, line in enumerate(self.asked[session["id"]]["line_items"]):
            cents, currency, _ = self._sold(line)
            price = self.objects.get(line.get("price"))
            name = f"li_{session['id']}_{at}"
            lines.append(shapes.line_item(name, line, amount=cents, currency=currency, price=price))
        return lines


def _without(asked, *names):
    return {name: value for name, value in asked.items() if name not in names}


def _needed(asked, name):
    if name not in asked:
        raise ApiError(
            400, f"Missing required param: {name}.", code="parameter_missing", param=name
        )
    return asked[name]

"""What happens to a subscription and its customer."""

from support.fake_stripe import payment_shapes, shapes, subscription_shapes
from support.fake_stripe.payments import Payments
from support.fake_stripe.world import happening

MONTH_S = 30 * 86_400
_EVENTS = {"canceled": "deleted", "paused": "paused"}


class Subscriptions(Payments):
    """Checkout in mode `subscription`, renewals, changes, the end; prices; deleted customers."""

    @happening
    def set_price(self, lookup_key, cents):
        """Give `lookup_key` to a new price; the one that had it loses it. Give the price."""
        for old in self.all("price", lookup_key=lookup_key):
            old["lookup_key"] = None
        price = shapes.price(self.new_id("price"), lookup_key, cents, self.now)
        return self.add(price)["id"]

    @happening
    def archive_price(self, lookup_key):
        """Take the price out of use; it keeps its lookup key."""
        self._price(lookup_key)["active"] = False

    @happening
    def subscribe(self, session_id):
        """Complete a session of mode `subscription`, paid. Give the subscription."""
        session = self._open_session(session_id, "subscription")
        subscription = self._new_subscription(session)
        invoice = self._new_invoice(subscription, "subscription_create")
        self.emit("customer.subscription.created", subscription)
        self._pay_invoice(invoice)
        self.change("customer.subscription.updated", subscription, status="active")
        self._complete(
            session,
            invoice=invoice["id"],
            subscription=subscription["id"],
            payment_status="paid",
        )
        return subscription["id"]

    @happening
    def set_subscription(self, subscription_id, *, price=None, period_end=None, **fields):
        """Change fields of a subscription; `price` is a lookup key.

        A change of `status` emits what Stripe would: deleted, paused, resumed or updated.
        """
        subscription = self.find("subscription", subscription_id)
        changed = {"price": price and self._price(price), "current_period_end": period_end}
        changed = {name: value for name, value in changed.items() if value is not None}
        if changed:
            first, *rest = subscription["items"]["data"]
            fields["items"] = subscription["items"] | {"data": [first | changed, *rest]}
        kind = _EVENTS.get(fields.get("status"), "updated")
        if subscription["status"] == "paused" and fields.get("status") == "active":
            kind = "resumed"
        self.change(f"customer.subscription.{kind}", subscription, **fields)

    @happening
    def cancel_subscription(self, subscription_id, *, reason="cancellation_requested"):
        """End a subscription at once."""
        details = {"comment": None, "feedback": None, "reason": reason}
        self.set_subscription(
            subscription_id,
            status="canceled",
            canceled_at=self.now,
            ended_at=self.now,
            cancellation_details=details | {"feedback_option": None},
        )

    @happening
    def renew(self, subscription_id):
        """Begin the next period, paid. Give the invoice."""
        subscription = self.find("subscription", subscription_id)
        self._next_period(subscription)
        invoice = self._new_invoice(subscription, "subscription_cycle")
        self._pay_invoice(invoice)
        self.change("customer.subscription.updated", subscription, status="active")
        return invoice["id"]

    @happening
    def fail_renewal(self, subscription_id):
        """Begin the next period, unpaid. Give the invoice."""
        subscription = self.find("subscription", subscription_id)
        self._next_period(subscription)
        invoice = self._new_invoice(subscription, "subscription_cycle")
        invoice.update(status="open", attempted=True, attempt_count=1)
        self.emit("invoice.finalized", invoice)
        self.emit("invoice.payment_failed", invoice)
        self.change("customer.subscription.updated", subscription, status="past_due")
        return invoice["id"]

    @happening
    def delete_customer(self, customer_id):
        """Delete a customer, and end the subscriptions of theirs that still run."""
        customer = self.find("customer", customer_id)
        for each in self.all("subscription", customer=customer_id):
            if each["status"] not in {"canceled", "incomplete_expired"}:
                self.cancel_subscription(each["id"])
        self.emit("customer.deleted", customer)
        self.objects[customer_id] = {"id": customer_id, "object": "customer", "deleted": True}

    @happening
    def advance(self, seconds):
        """Move the clock ahead, and let happen what is due by then."""
        self._ahead_s += seconds
        for session in self.all("checkout.session", status="open"):
            if session["expires_at"] <= self.now:
                self.expire(session["id"])
        for each in self.all("subscription"):
            if self._is_over(each):
                self.cancel_subscription(each["id"])

    def _is_over(self, subscription):
        if subscription["status"] in {"canceled", "incomplete_expired"}:
            return False
        ends = [subscription["cancel_at"]]
        if subscription["cancel_at_period_end"]:
            ends.append(subscription["items"]["data"][0]["current_period_end"])
        return any(end is not None and end <= self.now for end in ends)

    def _price(self, lookup_key):
        return self.all("price", lookup_key=lookup_key)[0]

    def _next_period(self, subscription):
        item = subscription["items"]["data"][0]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] += MONTH_S

    def _new_subscription(self, session):
        asked = self.asked[session["id"]]
        data = asked.get("subscription_data", {})
        subscription = subscription_shapes.subscription(
            self.new_id("sub"),
            self.now,
            customer=session["customer"] or self._new_customer(session),
            billing_mode=data.get("billing_mode", {}).get("type", "flexible"),
            metadata=data.get("metadata", {}),
        )
        for line in asked["line_items"]:
            item = subscription_shapes.subscription_item(
                self.new_id("si"),
                self.now,
                subscription=subscription["id"],
                price=self.find("price", line["price"]),
                quantity=int(line.get("quantity", 1)),
                period_s=MONTH_S,
            )
            subscription["items"]["data"].append(item)
        return self.add(subscription)

    def _new_customer(self, session):
        """Checkout makes a customer where it is given none."""
        customer = shapes.customer(self.new_id("cus"), self.now, {})
        self.emit("customer.created", self.add(customer))
        session["customer"] = customer["id"]
        return customer["id"]

    def _new_invoice(self, subscription, reason):
        items = subscription["items"]["data"]
        cents = sum(each["price"]["unit_amount"] * each["quantity"] for each in items)
        invoice = subscription_shapes.invoice(
            self.new_id("in"), self.now, subscription, cents=cents, reason=reason
        )
        subscription["latest_invoice"] = invoice["id"]
        self.emit("invoice.created", self.add(invoice))
        return invoice

    def _pay_invoice(self, invoice):
        intent = self.add(
            payment_shapes.payment_intent(
                self.new_id("pi"),
                self.now,
                amount=invoice["total"],
                currency=invoice["currency"],
                customer=invoice["customer"],
                metadata={},
            )
        )
        self.emit("payment_intent.created", intent)
        self._charge_succeeds(intent)
        self.add(
            subscription_shapes.invoice_payment(
                self.new_id("inpay"), self.now, invoice, intent["id"]
            )
        )
        invoice.update(status="open")
        self.emit("invoice.finalized", invoice)
        invoice["status_transitions"]["paid_at"] = self.now
        invoice.update(
            status="paid",
            amount_paid=invoice["total"],
            amount_remaining=0,
            attempted=True,
            attempt_count=1,
        )
        self.emit("invoice.paid", invoice)
        self.emit("invoice.payment_succeeded", invoice)

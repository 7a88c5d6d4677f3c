"""What happens to a payment: it is made, fails, is given back, is disputed."""

from support.fake_stripe import payment_shapes as shapes
from support.fake_stripe.faults import ApiError
from support.fake_stripe.world import World, happening

DISPUTE_FEE_CENTS = 1500


class Payments(World):
    """Checkout in mode `payment`, refunds and disputes."""

    @happening
    def pay(self, session_id, **changes):
        """Pay for a session at once; `changes` are made to it first. Give the payment intent."""
        session = self._open_session(session_id, "payment")
        session.update(changes)
        intent = self._new_intent(session)
        self._charge_succeeds(intent)
        self._complete(session, payment_intent=intent["id"], payment_status="paid")
        return intent["id"]

    @happening
    def pay_nothing(self, session_id):
        """Complete a session that a discount made free."""
        session = self._open_session(session_id, "payment")
        session["total_details"]["amount_discount"] = session["amount_subtotal"]
        self._complete(session, amount_total=0, payment_status="no_payment_required")

    @happening
    def pay_async(self, session_id, **changes):
        """Complete a session by a way of payment whose money comes later, if at all."""
        session = self._open_session(session_id, "payment")
        session.update(changes)
        intent = self._new_intent(session)
        charge = self._new_charge(intent)
        intent["status"] = "processing"
        self.emit("charge.pending", charge)
        self.emit("payment_intent.processing", intent)
        self._complete(session, payment_intent=intent["id"])
        return intent["id"]

    @happening
    def async_succeeds(self, session_id):
        """Let the money of `pay_async` come."""
        session, intent = self._processing(session_id)
        self._charge_succeeds(intent)
        session["payment_status"] = "paid"
        self.emit("checkout.session.async_payment_succeeded", session)

    @happening
    def async_fails(self, session_id):
        """Let the money of `pay_async` not come."""
        session, intent = self._processing(session_id)
        charge = self.find("charge", intent["latest_charge"])
        charge.update(status="failed", failure_code="insufficient_funds")
        intent["status"] = "requires_payment_method"
        self.emit("charge.failed", charge)
        self.emit("payment_intent.payment_failed", intent)
        self.emit("checkout.session.async_payment_failed", session)

    @happening
    def expire(self, session_id):
        """Let a session expire before its time."""
        session = self._open_session(session_id)
        session.update(status="expired", url=None)
        self.emit("checkout.session.expired", session)

    @happening
    def refund(self, payment_id, cents=None, *, status="succeeded", reason=None, metadata=()):
        """Give back `cents`, or all that is left. Give the refund.

        A `pending` refund counts in the charge's `amount_refunded` at once.
        """
        charge = self._charge_of(payment_id)
        left = charge["amount"] - charge["amount_refunded"]
        cents = left if cents is None else cents
        _refuse_refund(charge, cents, left)
        refund = self.add(
            shapes.refund(
                self.new_id("re"),
                self.now,
                charge,
                amount=cents,
                status=status,
                reason=reason,
                metadata=metadata,
            )
        )
        refund["balance_transaction"] = self._move("refund", refund, -cents)["id"]
        charge["amount_refunded"] += cents
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.emit("refund.created", refund)
        self.emit("charge.refunded", charge)
        return refund["id"]

    @happening
    def settle_refund(self, refund_id):
        """Let a pending refund succeed."""
        self.change("refund.updated", self.find("refund", refund_id), status="succeeded")

    @happening
    def fail_refund(self, refund_id):
        """Let a refund fail, be it pending or long succeeded: its money is ours again."""
        refund = self.find("refund", refund_id)
        charge = self.find("charge", refund["charge"])
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        moved = self._move("refund_failure", refund, refund["amount"])
        refund["failure_balance_transaction"] = moved["id"]
        fields = {"status": "failed", "failure_reason": "expired_or_canceled_card"}
        self.change("refund.updated", refund, **fields)
        self.emit("refund.failed", refund)
        self.emit("charge.refund.updated", refund)

    @happening
    def dispute(self, payment_id, cents=None):
        """Let the bank take `cents`, or all, while it looks into it. Give the dispute."""
        dispute = self._new_dispute(payment_id, cents, "needs_response")
        self._withdraw(dispute)
        return dispute["id"]

    @happening
    def warn(self, payment_id, cents=None):
        """Let the bank inquire, which moves no money. Give the dispute."""
        return self._new_dispute(payment_id, cents, "warning_needs_response")["id"]

    @happening
    def escalate(self, dispute_id):
        """Let an inquiry become a dispute."""
        dispute = self.find("dispute", dispute_id)
        fields = {"status": "needs_response", "is_charge_refundable": False}
        self.change("charge.dispute.updated", dispute, **fields)
        self._withdraw(dispute)

    @happening
    def close_inquiry(self, dispute_id):
        self._close_dispute(self.find("dispute", dispute_id), "warning_closed")

    @happening
    def win_dispute(self, dispute_id):
        """Let the bank give the money back to us, but not its fee."""
        dispute = self.find("dispute", dispute_id)
        dispute["balance_transactions"].append(self._move("adjustment", dispute, dispute["amount"]))
        self.emit("charge.dispute.funds_reinstated", dispute)
        self._close_dispute(dispute, "won")

    @happening
    def lose_dispute(self, dispute_id):
        self._close_dispute(self.find("dispute", dispute_id), "lost")

    def _close_dispute(self, dispute, status):
        dispute["status"] = status
        self.emit("charge.dispute.closed", dispute)

    def _open_session(self, session_id, mode=None):
        session = self.find("checkout.session", session_id)
        if session["status"] != "open" or mode not in {None, session["mode"]}:
            raise ValueError(f"{session_id} is {session['status']}, for a {session['mode']}")
        return session

    def _processing(self, session_id):
        session = self.find("checkout.session", session_id)
        intent = self.find("payment_intent", session["payment_intent"])
        if intent["status"] != "processing":
            raise ValueError(f"{session_id}: the payment is {intent['status']}")
        return session, intent

    def _complete(self, session, **fields):
        details = {"email": "person@example.com", "name": "A Person", "phone": None}
        details |= {"address": None, "tax_exempt": "none", "tax_ids": []}
        session.update(status="complete", url=None, customer_details=details, **fields)
        self.emit("checkout.session.completed", session)

    def _new_intent(self, session):
        asked = self.asked[session["id"]].get("payment_intent_data", {})
        intent = self.add(
            shapes.payment_intent(
                self.new_id("pi"),
                self.now,
                amount=session["amount_total"],
                currency=session["currency"],
                customer=session["customer"],
                metadata=asked.get("metadata", {}),
            )
        )
        self.emit("payment_intent.created", intent)
        return intent

    def _new_charge(self, intent):
        charge = self.add(shapes.charge(self.new_id("ch"), self.now, intent))
        intent["latest_charge"] = charge["id"]
        return charge

    def _charge_succeeds(self, intent):
        charge = self.objects.get(intent["latest_charge"]) or self._new_charge(intent)
        cents = intent["amount"]
        moved = self._move("charge", charge, cents, fee=cents * 29 // 1000 + 30)
        charge.update(
            status="succeeded",
            paid=True,
            captured=True,
            amount_captured=cents,
            balance_transaction=moved["id"],
        )
        intent.update(status="succeeded", amount_received=cents)
        self.emit("charge.succeeded", charge)
        self.emit("payment_intent.succeeded", intent)

    def _charge_of(self, payment_id):
        intent = self.find("payment_intent", payment_id)
        return self.find("charge", intent["latest_charge"])

    def _new_dispute(self, payment_id, cents, status):
        charge = self._charge_of(payment_id)
        cents = charge["amount"] if cents is None else cents
        dispute = shapes.dispute(self.new_id("dp"), self.now, charge, amount=cents, status=status)
        charge["disputed"] = True
        self.add(dispute)
        self.emit("charge.dispute.created", dispute)
        return dispute

    def _withdraw(self, dispute):
        moved = self._move("adjustment", dispute, -dispute["amount"], fee=DISPUTE_FEE_CENTS)
        dispute["balance_transactions"].append(moved)
        self.emit("charge.dispute.funds_withdrawn", dispute)

    def _move(self, kind, source, cents, *, fee=0):
        """Book what went in or out of our balance at Stripe."""
        moved = shapes.balance_transaction(
            self.new_id("txn"),
            self.now,
            kind=kind,
            amount=cents,
            fee=fee,
            currency=source["currency"],
            source=source["id"],
        )
        return self.add(moved)


def _refuse_refund(charge, cents, left):
    if left == 0:
        raise ApiError(
            400,
            f"Charge {charge['id']} has already been refunded.",
            code="charge_already_refunded",
        )
    if not 0 < cents <= left:
        raise ApiError(
            400,
            f"Refund amount ({cents}) is greater than unrefunded amount on charge ({left}).",
            param="amount",
        )

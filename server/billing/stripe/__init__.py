"""Money in: what is asked of Stripe, what Stripe tells, and how the ledger comes to agree."""

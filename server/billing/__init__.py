"""Prices, and later holds, the ledger and Stripe."""

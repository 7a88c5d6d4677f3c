"""Requests, from the protocol of the client to the one that its upstream speaks."""

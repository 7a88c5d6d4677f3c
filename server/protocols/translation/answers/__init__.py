"""Answers and streams, from the protocol of the upstream to the one that the client speaks."""

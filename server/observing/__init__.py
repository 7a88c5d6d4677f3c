"""What is seen of the gateway from outside while it runs: its access log, its metrics."""

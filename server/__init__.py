"""The gateway: from an HTTP request of a coding tool to a provider and back."""

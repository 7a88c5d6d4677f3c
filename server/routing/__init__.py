"""Which model and target serve a request."""

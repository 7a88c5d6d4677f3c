"""The provider's side: connections, requests, and the built-in demo."""

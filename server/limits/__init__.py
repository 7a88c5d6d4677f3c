"""What a key, or a tenant's subscription, may use at once and in a minute."""

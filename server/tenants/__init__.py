"""Who owns keys and money."""

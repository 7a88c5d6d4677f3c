"""A tool's system prompt and skills, and where they go."""

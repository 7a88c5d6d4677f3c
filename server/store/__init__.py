"""SQLite: the handle, the one writer thread, tables and migrations."""

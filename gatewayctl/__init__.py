"""The command line: bootstraps, mints keys, reports usage and runs the server."""

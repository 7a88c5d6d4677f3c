"""One row per dispatched request, and the reports over them."""

"""The pages, one module a group. Each module exports its `ROUTES`."""

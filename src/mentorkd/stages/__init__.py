"""The stages: each a function from records and models to records and models, that opens no path of its own choosing."""

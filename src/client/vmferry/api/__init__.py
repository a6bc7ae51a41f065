"""Generated from proto/; never edited. See `make proto`."""

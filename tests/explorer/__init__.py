"""The explorer: every interleaving of the real job tables, with every failure at every point. See docs/proof.md."""

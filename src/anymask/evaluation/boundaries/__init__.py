"""The BSDS500 boundary benchmark, and edges from masks."""

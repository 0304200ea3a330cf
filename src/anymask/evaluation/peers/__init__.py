"""Whatever stands beside a model in a table: methods without learning, models of transformers, detectors."""

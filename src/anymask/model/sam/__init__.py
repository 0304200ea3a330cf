"""SAM as published, and its decoder in a faster arrangement."""

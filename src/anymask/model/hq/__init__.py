"""SAM-HQ: SAM with a token and features of high quality."""

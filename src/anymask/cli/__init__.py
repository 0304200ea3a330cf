"""The command line: one file per command, and only calls to the layers below."""

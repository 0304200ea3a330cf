"""Graphs of networks, behind a parity gate."""

"""Measurements: every figure in the README and in bench/results comes from a command in here."""

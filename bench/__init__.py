"""Measurements: what the README and the results folder say is printed by a command in here."""

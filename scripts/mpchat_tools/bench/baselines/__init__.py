"""Servers of our own to compare with; each is a program."""

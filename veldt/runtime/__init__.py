"""Runtimes: what reads a program and runs it."""

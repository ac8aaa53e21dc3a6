"""Hypothesis without deadlines: the machine is shared, and the first call of torch takes its time."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

"""Property tests run on machines that may be busy: the time limit per test guards them, not one per example."""

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

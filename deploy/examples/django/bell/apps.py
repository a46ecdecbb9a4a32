"""Connects the signal when Django starts."""

from django.apps import AppConfig


class BellConfig(AppConfig):
    """The application."""

    name = "bell"

    def ready(self) -> None:
        import bell.signals  # noqa: F401

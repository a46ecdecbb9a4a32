"""Django's command line. Without arguments: make the database and the users of the demonstration, and serve on PORT."""

from __future__ import annotations

import os
import sys

import django
from django.core.management import call_command, execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bell.settings")


def demonstrate() -> None:
    """Two users, `ada` and `grace`, each with the name as the password."""
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    from django.contrib.auth.models import User

    for name in ("ada", "grace"):
        if not User.objects.filter(username=name).exists():
            User.objects.create_user(name, password=name)
    call_command("runserver", f"127.0.0.1:{os.environ['PORT']}", use_reloader=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        execute_from_command_line(sys.argv)
    else:
        demonstrate()

"""What users are notified of."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models


class Notification(models.Model):
    """One notification."""

    user: models.ForeignKey[Any, Any] = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    user_id: int
    text: models.CharField[str, str] = models.CharField(max_length=200)
    is_read: models.BooleanField[bool, bool] = models.BooleanField(default=False)

    objects = models.Manager["Notification"]()

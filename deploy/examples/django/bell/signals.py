"""Publishes each new notification once its transaction is committed: a page never hears of a row that was rolled back."""

from __future__ import annotations

import json

from django.conf import settings
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from bell.models import Notification
from bell.tokens import make_token, topic_of
from broker.client import publish


@receiver(post_save, sender=Notification)
def announce(instance: Notification, created: bool, **_: object) -> None:
    if created:
        # robust: without the broker, the notification is saved, Django logs the error, and the next page shows it
        transaction.on_commit(lambda: send(instance), robust=True)


def send(notification: Notification) -> None:
    topic = topic_of(notification.user_id)
    publish(
        settings.BROKER_URL,
        topic,
        json.dumps({"id": notification.pk, "text": notification.text}),
        token=make_token("bell", publish=[topic]),
        idempotency_key=f"notification-{notification.pk}",
        timeout=2,  # the user waits
    )

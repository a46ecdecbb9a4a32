"""The page with the bell, the token with which it follows its user's topic, and a form that notifies a user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from bell.models import Notification
from bell.tokens import make_token, topic_of

SHOWN = 20


@login_required
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """The newest notifications from the database, and where the page follows from: a minute ago, in case clocks differ."""
    start = datetime.now(UTC) - timedelta(
        minutes=1
    )  # taken before the query, so nothing falls between the two
    newest = list(Notification.objects.filter(user=request.user.pk).order_by("-pk")[:SHOWN])
    context = {
        "broker": {
            "url": settings.BROKER_URL,
            "topic": topic_of(request.user.pk),
            "since": start.isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
        "notifications": newest,
        "unread": sum(not each.is_read for each in newest),
        "users": User.objects.order_by("username"),
    }
    return render(request, "home.html", context)


@never_cache
def token(request: HttpRequest) -> HttpResponse:
    """A token for the user's own topic; none for an anonymous visitor."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401)
    made = make_token(str(request.user.pk), subscribe=[topic_of(request.user.pk)])
    return HttpResponse(made, content_type="text/plain")


@require_POST
@login_required
def notify(request: HttpRequest) -> HttpResponse:
    """Notify a user. Saving is enough: the signal does the rest."""
    user = get_object_or_404(User, username=request.POST.get("user"))
    text = f"{request.user.get_username()}: {request.POST.get('text', '')}"
    Notification.objects.create(user=user, text=text[:200])
    return redirect("home")


@require_POST
@login_required
def read(request: HttpRequest) -> HttpResponse:
    """The user has seen them all."""
    Notification.objects.filter(user=request.user.pk, is_read=False).update(is_read=True)
    return HttpResponse(status=204)

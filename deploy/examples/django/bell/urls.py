"""The paths."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from bell import views

urlpatterns = [
    path("", views.home, name="home"),
    path("token", views.token, name="token"),
    path("notify", views.notify, name="notify"),
    path("read", views.read, name="read"),
    path("login", LoginView.as_view(template_name="login.html"), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
]

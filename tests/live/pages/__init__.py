"""The broker's own pages in Chromium: topics and the dashboard."""

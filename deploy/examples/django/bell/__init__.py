"""A notification bell: a saved `Notification` is published to its user's topic; pages show the saved ones, then follow the topic."""

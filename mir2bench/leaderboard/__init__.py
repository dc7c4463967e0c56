"""Leaderboards: entries as data, checked and attacked anew before they count."""

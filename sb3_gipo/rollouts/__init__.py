"""Collected data: what a rollout is, how SB3's loop is recorded, and the replay of past rollouts."""

"""Losses of the learner: value targets, advantages and the sample-weight family, as plain functions."""

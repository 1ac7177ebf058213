"""Losses as plain functions: value targets, advantages and the sample-weight family."""

"""Gymnasium environments as an actor steps them: vectorised, checked, flattened to float32.

Import from the modules: `spaces` alone is light enough for processes without gymnasium.
"""

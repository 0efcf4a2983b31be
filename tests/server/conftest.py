"""The server's tests need the packages of its extra, and the clients that they stand for."""

import importlib.util

NEEDS = ("pydantic", "deepseek_recipe", "openai", "anthropic")
if any(importlib.util.find_spec(name) is None for name in NEEDS):
    collect_ignore_glob = ["test_*.py"]

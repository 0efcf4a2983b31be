"""The model over HTTP (`pip install wavefold[serve]`), for clients that people already use, and a page for browsers.

Only this package imports a web framework, only recipe.py deepseek-recipe.
"""

"""The model over HTTP: `wavefold serve`. Only this package imports a web framework (pip install wavefold[serve])."""

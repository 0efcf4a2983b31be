"""The page at `/`: chat, completion, and Look inside. `page_routes` serves it."""

from wavefold.server.page.files import page_routes

__all__ = ["page_routes"]

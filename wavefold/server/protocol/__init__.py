"""The protocols that clients speak: bodies in, engine requests out; the engine's tokens in, bytes out.

No ASGI, no threads, no model: see protocol.py for what the server calls, and in which order.
"""

from wavefold.server.protocol.bodies import name_in
from wavefold.server.protocol.chat import Chat
from wavefold.server.protocol.completions import Completions
from wavefold.server.protocol.context import Context, context_of
from wavefold.server.protocol.errors import Refused
from wavefold.server.protocol.messages import Messages, count_messages
from wavefold.server.protocol.protocol import Asked, Part, Protocol, Writer
from wavefold.server.protocol.responses import Responses, count_responses

PROTOCOLS: dict[str, Protocol] = {
    protocol.path: protocol for protocol in (Chat(), Messages(), Responses(), Completions())
}

__all__ = [
    "PROTOCOLS", "Asked", "Context", "Part", "Protocol", "Refused", "Writer", "context_of", "count_messages",
    "count_responses", "name_in",
]  # fmt: skip

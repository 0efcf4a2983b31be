"""A request's answer on its way: news of the engine in, bytes of the protocol out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wavefold.server.engine import STOPPED
from wavefold.server.line import Line
from wavefold.server.news import Ended, News, Reader
from wavefold.server.protocol import Asked, Refused, Writer

MOST_SINGLE = 256
"""So many tokens that come together are an event each. What has waited longer for a slow client is one event."""


class Exchange:
    """The answer to one request: of one part or several, a reader each."""

    def __init__(self, asked: Asked, writer: Writer, readers: Sequence[Reader], line: Line):
        self.asked, self.writer, self._line = asked, writer, line
        self._open = dict(enumerate(readers))
        self._counts = [0] * len(readers)
        self.has_left = False
        """The client is gone."""

    @property
    def readers(self) -> list[Reader]:
        """Those whose part has not ended."""
        return list(self._open.values())

    @property
    def is_done(self) -> bool:
        return not self._open or self.has_left

    def leave(self) -> None:
        """Ends what is open. What was read of prompts stays cached."""
        self.has_left = True
        self.close()

    def close(self) -> None:
        """Ends what is open, as an interruption."""
        for index in list(self._open):
            self._end(index, self._open[index].so_far("interrupted"))

    def _end(self, index: int, ended: Ended) -> None:
        self._line.ends.append(ended)
        self._open.pop(index).close(ended.reason)

    def frames(self) -> bytes:
        """Returns what is new as frames of a stream. Raises Refused where a part cannot be answered.

        A part whose answer no client could use ends all of them.
        """
        frames = []
        for index, reader in list(self._open.items()):
            if reader.has_news:
                frames.append(self._frames(index, reader))
            if self.writer.failed is not None:
                self.close()
                break
        return b"".join(frames)

    def _frames(self, index: int, reader: Reader) -> bytes:
        news, writer, data = reader.taken(), self.writer, b""
        if (usage := news.begun) is not None:
            data += writer.begin(usage.prompt_tokens, usage.cached_tokens + usage.disk_tokens, index)
        if news.read is not None and self.asked.want_progress:
            data += writer.progress(news.read, len(reader.request.prompt), index)
        if news.ids:
            data += self._tokens(index, news)
            if writer.ended(index):
                return data + self._stop(index, reader)
        if (ended := news.ended) is None:
            return data
        self._end(index, ended)
        if ended.reason == "refused":
            raise Refused.of(ValueError(ended.error))
        if ended.reason == "error":
            raise Refused(*((503, ended.error, "overloaded") if ended.error == STOPPED else
                            (500, ended.error, "server_error")))  # fmt: skip
        return data + writer.finish(ended.reason, ended.usage, index, ended.prompt_logprobs)

    def _tokens(self, index: int, news: News) -> bytes:
        """Returns the frames of new tokens, up to the one that ends the part."""
        writer, ids, logprobs = self.writer, news.ids, news.logprobs
        at_once = 1 if len(ids) <= MOST_SINGLE else len(ids)
        frames = []
        for first in range(0, len(ids), at_once):
            last = first + at_once
            frames.append(writer.tokens(ids[first:last], logprobs[first:last], index))
            self._counts[index] += last - first
            if writer.ended(index):
                break
        return b"".join(frames)

    def _stop(self, index: int, reader: Reader) -> bytes:
        """Ends a part whose text is complete for its protocol. The engine may have gone on by a step."""
        ended = reader.so_far("stop")
        usage = replace(ended.usage, completion_tokens=self._counts[index])
        self._end(index, ended._replace(usage=usage))
        return self.writer.finish("stop", usage, index, ended.prompt_logprobs)

"""From bytes to text: nothing is let out that could still become a stop sequence or part of a UTF-8 character. No I/O."""

from __future__ import annotations

import codecs


def stop_length(text: bytes | bytearray, stops: tuple[bytes, ...]) -> int:
    """Length of the longest stop sequence that `text` ends with; 0 if none."""
    return max((len(stop) for stop in stops if text.endswith(stop)), default=0)


class TextCutter:
    """Takes bytes one by one; a stop sequence at the end is left out. What is no UTF-8 becomes U+FFFD.

    The pieces that `feed` gives and what `finish` gives last make up the same text however they are cut.
    """

    def __init__(self, stops: tuple[bytes, ...]) -> None:
        self._stops = stops
        self._hold = max(map(len, stops), default=1) - 1  # the beginning of a stop that may yet be completed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = bytearray()  # not let out yet
        self.units = 0
        self.stopped = False

    def feed(self, byte: int) -> str:
        """The text that is certain after one more byte, often none. Nothing follows a stop."""
        assert not self.stopped
        self.units += 1
        self._kept.append(byte)
        cut = stop_length(self._kept, self._stops)
        if cut:
            self.stopped = True
            del self._kept[-cut:]
            return ""
        certain = max(0, len(self._kept) - self._hold)
        text = self._decoder.decode(bytes(self._kept[:certain]))
        del self._kept[:certain]
        return text

    def finish(self) -> str:
        """The rest."""
        rest, self._kept = bytes(self._kept), bytearray()
        return self._decoder.decode(rest, final=True)

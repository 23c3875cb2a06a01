"""What can go wrong between us and an origin, as the caller needs to tell it apart.

The classes answer one question each: is it worth asking again later (`OriginUnavailable`), is the object not the
one that was published (`OriginObjectMissing`, `OriginObjectChanged`: a person must republish or repair), will this
origin never answer this request (`OriginRefused`), or did we stop by ourselves (`OriginCancelled`). What nobody
foresaw, of ours or of a library, is an `OriginFault`. `TryAgain` stays inside this package: one request has failed,
and the next one may not.

Each error has two texts. Its message is for the log of this node. What it `told` is for everybody: an order names any
address, and if sizes, statuses or words of what answers there were shown, it would be a way to look into networks and
files. So `told` is made of fixed words alone, which say what kind of thing is wrong and what to do; an error that gives
none has those of its class.
"""

from __future__ import annotations

from typing import ClassVar

from p2pfill.errors import InternalError, TransferError


class OriginError(TransferError):
    """The root of what an origin's `read_chunk` raises.

    `bytes_received` is the payload that had arrived in vain, so that it can be counted as waste. `cause` is what is
    wrong, without the file that it happened to and without what the origin has said: as long as it is the same, people
    need to be told once. With `advice`, which says what to do, it is what everybody is told.
    """

    KIND: ClassVar = "it cannot be read"

    def __init__(
        self, message: str, *, bytes_received: int = 0, requests: int = 0, cause: str = "", advice: str = ""
    ) -> None:
        super().__init__(message)
        self.bytes_received = bytes_received
        self.requests = requests
        self.failed = 0
        """Of those, such as brought no answer, or less than they promised."""
        self.cause = cause or self.KIND
        advice = advice or ("" if cause else "the log of this cache says more")
        self.told = f"{self.cause}; {advice}" if advice else self.cause


class OriginUnavailable(OriginError):
    """The origin is out of reach, overloaded or keeps breaking off; attempts or time ran out.

    `retry_after_s` is how long the origin itself asked us to stay away, None where it did not say.
    """

    KIND = "it cannot be read now"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        bytes_received: int = 0,
        cause: str = "",
        advice: str = "",
    ) -> None:
        super().__init__(message, bytes_received=bytes_received, cause=cause, advice=advice)
        self.retry_after_s = retry_after_s


class OriginObjectMissing(OriginError):
    """A file of the title is not below the origin's URL."""

    KIND = "not found at the origin"


class OriginObjectChanged(OriginError):
    """A file's size or content is not what was published."""

    KIND = "it does not send what was published"


class OriginRefused(OriginError):
    """The origin will not answer this request however often it is asked: forbidden, bad request, bad name."""

    KIND = "the origin refuses it"


class OriginCancelled(OriginError):
    """The caller does not want it any more, or the origin was closed."""


class OriginFault(OriginError, InternalError):
    """Reading failed in a way that nobody foresaw: a bug, of which the traceback says more than the message."""

    KIND = "it cannot be read, for a fault of the program"


class TryAgain(TransferError):
    """One request has failed in a way that the next one need not; `retry_after_s` is what the origin asked us to wait.

    Its text says what is wrong, without the file that was asked for. `cause` is of that what everybody may be told.
    """

    def __init__(self, cause: str, retry_after_s: float | None = None, *, said: str = "") -> None:
        """`said` is the text where that has more in it than the cause."""
        super().__init__(said or cause)
        self.cause = cause
        self.retry_after_s = retry_after_s

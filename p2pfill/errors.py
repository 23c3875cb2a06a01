"""The tree of errors that p2pfill raises.

Every message says what happened, to what, and, where a person can act, what to do next. What a remote
sends can only ever become a `RemoteProtocolError` or a `TransferError`; an `InternalError` is a bug of ours.
"""


class P2PFillError(Exception):
    """The root of everything that p2pfill raises on purpose."""


class ConfigError(P2PFillError):
    """A setting, an argument or a file that a person gave cannot be used."""


class ManifestError(P2PFillError):
    """A manifest is malformed, breaks a limit, or names files in a way that is unsafe to write."""


class SignatureError(ManifestError):
    """A title is not signed by those whom the fleet trusts to publish it."""


class StoreError(P2PFillError):
    """The disk below the store refused: full, read-only, missing, changed behind our back."""


class DiskFullError(StoreError):
    """There is no room on the disk; `needed_bytes` free ones would do, as far as that is known."""

    def __init__(self, message: str, needed_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class TitleInDoubtError(StoreError):
    """What is here of a title is to be read and checked before it can be filled or served."""


class ProtocolError(P2PFillError):
    """The rules of the wire were broken; `LocalProtocolError` by us, `RemoteProtocolError` by the other side."""


class LocalProtocolError(ProtocolError):
    """Our own code asked the protocol for something that its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The remote sent something that the protocol does not allow. Closes that link only."""


class TransferError(P2PFillError):
    """A chunk could not be moved: the source failed, lied, stalled or went away."""


class TrackerError(P2PFillError):
    """The tracker is out of reach or refused a call."""


class PeerRefused(P2PFillError):
    """The other side's certificate is none that is accepted here."""


class InternalError(P2PFillError):
    """An invariant of our own is broken. Always a bug; please report it."""


def is_fault(error: BaseException) -> bool:
    """Tell whether `error`, or all of a group, is a fault of the work that was done, and no demand that it should end.

    A panic of a library written in Rust is a fault too: PyO3 lets it derive from `BaseException`, and its class can be
    imported from nowhere.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_fault(inner) for inner in error.exceptions)
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, nested ones too, in order; of one that is no group itself alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]

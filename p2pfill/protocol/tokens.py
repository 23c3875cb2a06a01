"""One-time tokens that bind a data stream to the control link over which they were granted.

Invariant: a token is either live (issued, not spent, not expired) or unknown; spending it or letting it expire makes it
unknown for ever. Tokens are kept as digests under a key of this registry, and looked up by them: how long a comparison
takes tells nothing of a token, and what is in memory is none.
A token says whether its stream is encrypted: one that is shown on the other kind of stream is spent, and of no use.
The clock and the random source are arguments. Rejected: signed tokens without a registry, which cannot be one-time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Generic, NamedTuple, TypeVar

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.protocol.messages import TOKEN_BYTES

TOKENS_MAX: Final = 4096
"""Live tokens of one node: some per link; a peer that asks and never connects cannot fill memory."""

TOKEN_LIFETIME_S: Final = 30.0
"""Ample for a connect with retransmitted SYNs, short enough that a leaked one is soon worthless."""

OwnerT = TypeVar("OwnerT")


class Spent(NamedTuple, Generic[OwnerT]):
    """What a token was issued for."""

    owner: OwnerT
    certificate: bytes
    """Its stream is encrypted, and must show the certificate with this fingerprint; empty: it is not."""


class TokenRegistry(Generic[OwnerT]):
    """Issues tokens for owners (say, links) and spends each at most once. `now` never goes back (a monotonic clock)."""

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        *,
        lifetime_s: float = TOKEN_LIFETIME_S,
        count_max: int = TOKENS_MAX,
    ) -> None:
        """`random_bytes(n)` returns n bytes that nobody can predict, as `secrets.token_bytes` does."""
        self._random_bytes = random_bytes
        self._key = b""
        """Drawn with the first token; nothing can be found before."""
        self._lifetime_s = lifetime_s
        self._count_max = count_max
        # By their names. All live equally long, so the order of issue is the order of expiry.
        self._live: OrderedDict[bytes, tuple[float, Spent[OwnerT]]] = OrderedDict()
        self._held: Counter[OwnerT] = Counter()

    def __len__(self) -> int:
        """Tokens held, those that expired since the last call among them."""
        return len(self._live)

    def issue(self, owner: OwnerT, now: float, certificate: bytes = b"") -> bytes:
        """Return a fresh token of 32 bytes, for an encrypted stream where it comes with a `certificate`.

        Raises `LocalProtocolError` where too many are live: refuse the stream.
        """
        self.expire(now)
        if len(self._live) >= self._count_max:
            raise LocalProtocolError(f"{len(self._live)} data stream tokens are live, as many as allowed; refuse it")
        self._key = self._key or self._random_bytes(TOKEN_BYTES)
        token = self._random_bytes(TOKEN_BYTES)
        name = self._name(token)
        if len(token) != TOKEN_BYTES or name in self._live:
            raise LocalProtocolError("the random source for tokens is broken: wrong length, or a token came twice")
        self._live[name] = (now + self._lifetime_s, Spent(owner, certificate))
        self._held[owner] += 1
        return token

    def held_by(self, owner: OwnerT, now: float) -> int:
        """Return how many live tokens an owner has."""
        self.expire(now)
        return self._held[owner]

    def spend(self, token: bytes, now: float, *, encrypted: bool = False) -> Spent[OwnerT]:
        """Return what `token` was issued for, and forget it.

        Raises `RemoteProtocolError` where it is not live, or where its stream must be `encrypted` and is not, or the
        other way round.
        """
        self.expire(now)
        entry = self._live.pop(self._name(bytes(token)), None)
        if entry is None:
            # The token itself stays out of the message: logs are read by more people than tokens should be.
            raise RemoteProtocolError("data stream with a token that was never issued, has expired or was used before")
        spent = entry[1]
        self._count_down(spent.owner)
        if bool(spent.certificate) != encrypted:
            must, shown = ("encrypted", "plain") if spent.certificate else ("plain", "encrypted")
            raise RemoteProtocolError(f"the token of a data stream that is to be {must} came on one that is {shown}")
        return spent

    def expire(self, now: float) -> int:
        """Forget tokens whose time is over; return how many."""
        gone = 0
        while self._live:
            token, (deadline, spent) = next(iter(self._live.items()))
            if deadline > now:
                break
            del self._live[token]
            self._count_down(spent.owner)
            gone += 1
        return gone

    def revoke(self, owner: OwnerT) -> int:
        """Forget all tokens of an owner whose link has ended; return how many."""
        tokens = [token for token, (_, spent) in self._live.items() if spent.owner == owner]
        for token in tokens:
            del self._live[token]
        self._held.pop(owner, None)
        return len(tokens)

    def _name(self, token: bytes) -> bytes:
        return blake2b(token, digest_size=32, key=self._key).digest()

    def _count_down(self, owner: OwnerT) -> None:
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]

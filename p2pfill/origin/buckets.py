"""A bucket of an object store as origin (Amazon S3 and what speaks like it), read and written through obstore.

`s3://BUCKET/PREFIX` holds the tree of the title below PREFIX. Who we are is found where each tool of that store looks
for it: the environment (`AWS_ACCESS_KEY_ID` and so on), a profile (`~/.aws`, which needs boto3), the machine's or the
container's role. So no credential is in a URL, in an order or at the tracker, and none is shown.

obstore signs, connects and counts lengths; asking again is `reader.OriginReader`'s business, as for every origin.
Rejected: signing requests ourselves over `web.WebBackend`, which would be a second implementation of the store's rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import obstore
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from p2pfill._version import __version__
from p2pfill.errors import ConfigError
from p2pfill.origin.bodies import Body, Part, check_size, one_line
from p2pfill.origin.errors import OriginError, OriginObjectChanged, OriginObjectMissing, OriginRefused, TryAgain
from p2pfill.origin.urls import read_bucket

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3CredentialProvider

    from p2pfill.origin.settings import OriginSettings
    from p2pfill.origin.watch import Watch

_WHOLE_S: Final = 24 * 3600.0
"""obstore wants a limit for a whole answer. Ours are for silence; a fill window has passed by then."""

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_ROLE_HOSTS: Final = re.compile(r"https?://(169\.254\.169\.254|169\.254\.170\.\d+|\[fd00:ec2::254\])")
"""Where a machine is asked for the credentials of its role: the last place that is looked at."""

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_SYSTEM: Final = re.compile(r'message: "([^"\n]{1,200})"|error: "([^"\n]{1,200})"|Error\(\s*"([^"\n]{1,200})"')
"""What obstore says, deep below, of what the system refused."""

_NO_RANGE: Final = "NotPartial"
"""What obstore calls the answer with a whole object to a request for a range; it has no class for it."""

_PASSING: Final = frozenset((408, 425, 429))
"""Of the statuses that blame the request, those that ask for another try."""
_PASSING_CODES: Final = frozenset(("RequestTimeout",))
"""Status 400 too: the store was waiting for a connection that stood still."""
_TOKEN_CODES: Final = frozenset(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"))
"""Status 400 too, of credentials that are good for a while."""


class BucketBackend:
    """The bucket and prefix at the normalised URL `base`. Raises `ConfigError` where it cannot be opened."""

    def __init__(self, base: str, settings: OriginSettings) -> None:
        self.name = base
        self._store = open_store(base, settings)
        self._below = base.partition("?")[0]

    def name_of(self, path: str) -> str:
        """Return a file's URL."""
        return f"{self._below}/{path}"

    def open(self, watch: Watch, part: Part, *, ranged: bool) -> Body:
        """Ask for a part of an object.

        obstore drops the answer of a store that does not know ranges before it can be read: the object is asked for
        once more then, as a whole.
        """
        watch.count(requests=1)
        name, ignores_range = self.name_of(part.entry.path), False
        try:
            try:
                result = obstore.get(
                    self._store, part.entry.path, options={"range": (part.start, part.stop)} if ranged else None
                )
            except GenericError as error:
                if not ranged or _NO_RANGE not in str(error)[:8192]:
                    raise
                ignores_range, ranged = True, False
                watch.count(requests=1, failed=1)
                result = obstore.get(self._store, part.entry.path)
            check_size(name, result.meta["size"], part.entry.size)
            pieces = iter(result.stream(min_chunk_size=1))
        except (BaseError, OSError) as error:
            _judge(name, error)

        left = memoryview(b"")

        def read_into(buffer: memoryview, watch: Watch) -> int:
            nonlocal left
            try:
                left = left or memoryview(next(pieces, b""))
            except (BaseError, OSError) as error:
                raise TryAgain(_said(error)) from error
            count = min(len(buffer), len(left))
            buffer[:count], left = left[:count], left[count:]
            return count

        start, stop = (part.start, part.stop) if ranged else (0, part.entry.size)
        return Body(watch, start, stop, read_into, ignores_range=ignores_range)

    def close(self) -> None:
        """Nothing is open between requests."""


def open_store(base: str, settings: OriginSettings, attempts_max: int = 1) -> S3Store:
    """Return the store behind the normalised URL `base`, which makes so many attempts itself. Raises `ConfigError`."""
    where = read_bucket(base)
    config: S3Config = {}
    if where.region:
        config["region"] = where.region
    if where.endpoint:
        config["endpoint"] = where.endpoint
    endpoint = where.endpoint or next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    options: ClientConfig = {
        # Without TLS only where somebody has said so, by the address.
        "allow_http": endpoint.lower().startswith("http://"),
        "connect_timeout": timedelta(seconds=settings.connect_max_s),
        "read_timeout": timedelta(seconds=settings.stall_max_s),
        "timeout": timedelta(seconds=_WHOLE_S),
        "pool_max_idle_per_host": str(settings.concurrency),
        "user_agent": f"p2pfill/{__version__}",
    }
    return S3Store(
        where.bucket,
        prefix=where.prefix or None,
        config=config,
        client_options=options,
        retry_config={"max_retries": attempts_max - 1, "retry_timeout": timedelta(seconds=_WHOLE_S)},
        credential_provider=_profile(os.environ),
    )


def _profile(environment: Mapping[str, str]) -> S3CredentialProvider | None:
    """Return what finds the credentials of a profile; None where obstore finds those that there are by itself.

    Raises `ConfigError` where a profile is all there is and cannot be read.
    """
    if environment.get("AWS_ACCESS_KEY_ID") or environment.get("AWS_SKIP_SIGNATURE"):
        return None
    home = Path(environment.get("HOME", "/nonexistent")) / ".aws"
    files = [
        Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"),
        Path(environment.get("AWS_CONFIG_FILE") or home / "config"),
    ]
    if not environment.get("AWS_PROFILE") and not any(file.is_file() for file in files):
        return None
    advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the node, or mend the profile"
    try:
        import boto3  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise ConfigError(
            "the credentials for s3:// are in a profile, which boto3 reads: install p2pfill[s3]; or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the node"
        ) from error
    try:
        return Boto3CredentialProvider(boto3.Session())
    except Exception as error:  # boto has no root of its errors, and they are all about the set-up
        said = one_line(str(error), type(error).__name__)
        raise ConfigError(f"the profile with the credentials for s3:// cannot be used: {said}; {advice}") from error


def describe(error: Exception) -> str:
    """Return why a request failed, in one line and with a next step."""
    try:
        _judge("", error)
    except TryAgain as failure:
        return f"{failure}; check that the store is up and reachable from here"
    except OriginError as failure:
        return str(failure).removeprefix(": ")


def _judge(name: str, error: Exception) -> NoReturn:
    """Raise what a failed request means."""
    text = str(error)[:8192]
    status, code = _STATUS.search(text), _CODE.search(text)
    cause = " ".join(["status", status[1], *([code[1]] if code else [])]) if status else _said(error)
    if _ROLE_HOSTS.search(text):
        raise OriginRefused(
            f"{name}: there are no credentials for it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "environment of the node, or give the machine a role",
            cause="no credentials",
        ) from error
    if isinstance(error, FileNotFoundError):
        if code is not None and code[1] == "NoSuchBucket":
            raise OriginRefused(
                f"{name}: there is no such bucket; check its name, region and endpoint", cause="no such bucket"
            ) from error
        cause = "not found at the origin"
        raise OriginObjectMissing(
            f"{name}: {cause}; check that the prefix is the one to which the title was uploaded", cause=cause
        ) from error
    said = code[1] if code else ""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or said in _TOKEN_CODES:
        raise OriginRefused(
            f"{name}: the origin refuses it: {cause}; check the credentials, the machine's clock and what the bucket "
            "allows",
            cause=cause,
        ) from error
    if status is None or int(status[1]) >= 500 or int(status[1]) in _PASSING or said in _PASSING_CODES:
        raise TryAgain(cause) from error
    if status[1] == "416":
        cause = "truncated at the origin"
        raise OriginObjectChanged(
            f"{name}: {cause}; upload it again, or publish the title anew", cause=cause
        ) from error
    raise OriginRefused(
        f"{name}: the origin refuses it: {cause}; check the bucket's region and endpoint", cause=cause
    ) from error


def _said(error: Exception) -> str:
    """Return one line for people from what obstore or the system says."""
    text = str(error)[:8192]
    deeper = _SYSTEM.findall(text)
    said = next((part for part in deeper[-1] if part), "") if deeper else ""
    first = re.sub(r"^.*?Error performing [A-Z]+ \S+ in \S+ - ", "", text.partition("\n")[0])
    return one_line(said or first, type(error).__name__)

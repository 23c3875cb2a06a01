"""A bucket of an object store as origin (Amazon S3 and what speaks like it), read and written through obstore.

`s3://BUCKET/PREFIX` holds the tree of the title below PREFIX. Who we are is found where each tool of that store looks
for it: the environment (`AWS_ACCESS_KEY_ID` and so on), a profile (`~/.aws`, which needs boto3), the machine's or the
container's role. So no credential is in a URL, in an order or at the tracker, and none is shown.

obstore knows where an object is and signs the URL of it; `web.WebBackend` reads that, with all its limits. A redirect
is not followed: what is signed is for one host.
Rejected: obstore's own client, which was here before. It looks names up and follows redirects by itself, so an order
could lead it to any address (`access`). And signing ourselves, which would be a second implementation of those rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from p2pfill._version import __version__
from p2pfill.errors import ConfigError
from p2pfill.origin.bodies import one_line
from p2pfill.origin.errors import OriginError, OriginObjectMissing, OriginRefused, TryAgain
from p2pfill.origin.urls import read_bucket
from p2pfill.origin.web import PASSING, WebBackend, door

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3CredentialProvider

    from p2pfill.origin.bodies import Part
    from p2pfill.origin.settings import OriginSettings
    from p2pfill.origin.web import Answer

_WHOLE_S: Final = 24 * 3600.0
"""obstore wants a limit for a whole answer. Ours are for silence; a fill window has passed by then."""

_SIGNED: Final = timedelta(hours=1)
"""So long a signature is good, which is used at once: clocks differ."""

_ERROR_BYTES_MAX: Final = 8192
"""Of the answer of a store that says what is wrong."""

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_ROLE_HOSTS: Final = re.compile(r"https?://(169\.254\.169\.254|169\.254\.170\.\d+|\[fd00:ec2::254\])")
"""Where a machine is asked for the credentials of its role: the last place that is looked at."""

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_SYSTEM: Final = re.compile(r'message: "([^"\n]{1,200})"|error: "([^"\n]{1,200})"|Error\(\s*"([^"\n]{1,200})"')
"""What obstore says, deep below, of what the system refused."""

_PASSING_CODES: Final = frozenset(("RequestTimeout",))
"""Status 400 too: the store was waiting for a connection that stood still."""
_TOKEN_CODES: Final = frozenset(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"))
"""Status 400 too, of credentials that are good for a while."""
_CODES: Final = _PASSING_CODES | _TOKEN_CODES | frozenset(
    (
        "AccessDenied", "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError", "InvalidAccessKeyId", "InvalidBucketName", "InvalidObjectState",
        "InvalidRequest", "MethodNotAllowed", "NoSuchBucket", "NoSuchKey", "PermanentRedirect", "RequestTimeTooSkewed",
        "SignatureDoesNotMatch", "TemporaryRedirect",
    )
)  # fmt: skip
"""What everybody may be told of what a store says; its other words are for the log."""


class BucketBackend(WebBackend):
    """The bucket and prefix at the normalised URL `base`. Raises `ConfigError` where it cannot be opened.

    Raises `OriginRefused` where it may not be read by `settings.access`.
    """

    follows = False

    def __init__(self, base: str, settings: OriginSettings) -> None:
        where = read_bucket(base)
        settings.access.check_bucket(where.bucket, where.endpoint)
        self._is_public = _is_public(os.environ)
        self._is_named = bool(where.endpoint)
        self._store = open_store(base, settings)
        self._below = base.partition("?")[0]
        super().__init__(base, settings)

    def name_of(self, path: str) -> str:
        """Return a file's URL."""
        return f"{self._below}/{path}"

    def url_of(self, path: str) -> str:
        """Return the URL of an object, signed for a while where it has to be. Raises `TryAgain`, `OriginError`."""
        try:
            url = obstore.sign(self._store, "GET", path, _SIGNED)
        except (BaseError, OSError) as error:
            _judge(self.name_of(path), error)
        if not self._is_named:
            # Where no order says where the store is, the operator's environment does, or it is Amazon's. A redirect
            # would lead elsewhere, and is not followed.
            self._access = replace(self._access, trusted=frozenset((door(url),)))
        return url.partition("?")[0] if self._is_public else url

    def judge(self, name: str, answer: Answer, part: Part) -> NoReturn:
        """Raise what an answer means that has no bytes of the object; the store's own code says more than a status."""
        status = answer.status
        if answer.proxy is not None or status >= 500 or status in PASSING or status in (407, 416):
            super().judge(name, answer, part)
        code = _CODE.search(answer.text(_ERROR_BYTES_MAX))
        _judge_status(name, status, code[1] if code else "")


def open_store(base: str, settings: OriginSettings, attempts_max: int = 1) -> S3Store:
    """Return the store behind the normalised URL `base`, which makes so many attempts itself. Raises `ConfigError`."""
    where = read_bucket(base)
    config: S3Config = {}
    if where.region:
        config["region"] = where.region
    if where.endpoint:
        config["endpoint"] = where.endpoint
    endpoint = where.endpoint or next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    if _is_public(os.environ) and not os.environ.get("AWS_ACCESS_KEY_ID"):
        # obstore tells the URL of an object by signing it, for which it wants somebody who signs.
        config["access_key_id"] = config["secret_access_key"] = "public"  # noqa: S105 (nobody's)
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


def _is_public(environment: Mapping[str, str]) -> bool:
    """Tell whether requests are not to be signed, as obstore reads it."""
    return environment.get("AWS_SKIP_SIGNATURE", "").strip().lower() in ("1", "true", "on", "yes", "y")


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
    """Raise what it means that obstore could not do something."""
    text = str(error)[:8192]
    status, found = _STATUS.search(text), _CODE.search(text)
    code = found[1] if found else ""
    if _ROLE_HOSTS.search(text):
        cause = "this cache has no credentials for it"
        advice = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the node, or give the machine a role"
        )
        raise OriginRefused(f"{name}: there are no credentials for it; {advice}", cause=cause, advice=advice) from error
    if isinstance(error, FileNotFoundError):
        _judge_status(name, 404, code, error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        _judge_status(name, int(status[1]) if status else 403, code, error)
    if status is None:
        raise TryAgain("it cannot be asked now", said=_said(error)) from error
    _judge_status(name, int(status[1]), code, error)


def _judge_status(name: str, status: int, code: str, why: Exception | None = None) -> NoReturn:
    """Raise what it means that a store refuses, which says a `code` or none."""
    said = f"status {status} {code}".rstrip()
    known = f": {code}" if code in _CODES else ""
    if status == 404 and code == "NoSuchBucket":
        cause, advice = "no such bucket", "check its name, region and endpoint"
        raise OriginRefused(f"{name}: there is {cause}; {advice}", cause=cause, advice=advice) from why
    if status == 404:
        cause, advice = OriginObjectMissing.KIND, "check that the prefix is the one to which the title was uploaded"
        raise OriginObjectMissing(f"{name}: {cause}; {advice}", cause=cause, advice=advice) from why
    if status >= 500 or status in PASSING or code in _PASSING_CODES:
        raise TryAgain(f"it fails, or is asked too often{known}", said=said) from why
    cause, advice = f"{OriginRefused.KIND}{known}", "check the bucket's region and endpoint"
    if status in (401, 403) or code in _TOKEN_CODES:
        advice = "check the credentials, the machine's clock and what the bucket allows"
    raise OriginRefused(f"{name}: {OriginRefused.KIND}: {said}; {advice}", cause=cause, advice=advice) from why


def _said(error: Exception) -> str:
    """Return one line for people from what obstore or the system says."""
    text = str(error)[:8192]
    deeper = _SYSTEM.findall(text)
    said = next((part for part in deeper[-1] if part), "") if deeper else ""
    first = re.sub(r"^.*?Error performing [A-Z]+ \S+ in \S+ - ", "", text.partition("\n")[0])
    return one_line(said or first, type(error).__name__)

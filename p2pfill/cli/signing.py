"""What `p2pfill key`, `p2pfill sign` and `publish --key` do, and how signatures come to a tracker."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfill.cli.deadline import show_deadline
from p2pfill.cli.text import plural, printable, read_manifest
from p2pfill.errors import ConfigError, SignatureError
from p2pfill.model.quantities import parse_span
from p2pfill.model.statement import EXPIRES_MAX, NUMBER_MAX, SIGNATURES_BYTES_MAX, SIGNATURES_MAX, Signatures, Statement

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

SUFFIX = ".sig"
"""Ends the name of the file with the signatures of a manifest; before it stands the whole name of the manifest's."""


def draw_key(path: Path, *, as_json: bool) -> None:
    """Make a key and print its public half."""
    from p2pfill.trust.signing import make_key

    _show(make_key(path), as_json=as_json)


def show_key(path: Path, *, as_json: bool) -> None:
    """Print the public half of a key."""
    from p2pfill.trust.signing import load_key, public_word

    _show(public_word(load_key(path)), as_json=as_json)


def _show(word: str, *, as_json: bool) -> None:
    print(json.dumps({"key": word}) if as_json else word)


def sign_title(fill: Path, key: Path, *, expires: str, number: int | None, anew: bool, as_json: bool) -> None:
    """Add a signature to those that lie beside a manifest."""
    manifest = read_manifest(fill)
    before = None if anew else signatures_beside(fill, manifest)
    if before is not None and (expires or number is not None):
        raise ConfigError(
            f"{str(fill) + SUFFIX!r} is signed already, and only the same can be signed beside it: leave --expires and "
            "--number out, or say --anew"
        )
    made = sign_manifest(fill, manifest, key, expires=expires, number=number, before=before)
    if as_json:
        print(json.dumps({"title": manifest.title_id.hex(), "name": manifest.name} | spelled(fill, made)))
    else:
        print(said_of(fill, made))


def sign_manifest(
    fill: Path, manifest: Manifest, key: Path, *, expires: str, number: int | None, before: Signatures | None = None
) -> Signatures:
    """Sign a manifest with the key in a file, beside those who have signed it before. Raises `ConfigError`."""
    from p2pfill.trust.files import replace_file
    from p2pfill.trust.signing import load_key, sign

    now_s = time.time()
    if before is None:
        number = _next_number(fill, manifest.name, now_s) if number is None else number
        statement = Statement(manifest.title_id, manifest.name, number, expiry(expires, now_s))
    else:
        statement = before.statement
    if statement.number > NUMBER_MAX:
        raise ConfigError(f"number {number} is above {NUMBER_MAX}")
    made = sign(load_key(key), statement, before)
    if before is not None and len(made.by) == SIGNATURES_MAX and not before.by.items() <= made.by.items():
        raise ConfigError(f"{str(fill) + SUFFIX!r} has {SIGNATURES_MAX} signatures already: there can be no more")
    path = fill.with_name(fill.name + SUFFIX)
    try:
        replace_file(path, made.encode())
    except OSError as error:
        raise ConfigError(f"cannot write signatures {str(path)!r}: {error.strerror}") from error
    return made


def _next_number(fill: Path, name: str, now_s: float) -> int:
    """Return the number of what is signed of a name now: the time, but more than that of what lies there already.

    What was signed by a clock that was ahead would else stay the newest until that time has come.
    """
    before = -1
    with suppress(OSError, SignatureError), fill.with_name(fill.name + SUFFIX).open("rb") as file:
        statement = Signatures.decode(file.read(SIGNATURES_BYTES_MAX + 1)).statement
        if statement.name == name:
            before = statement.number
    if before >= NUMBER_MAX:
        raise ConfigError(
            f"{str(fill) + SUFFIX!r} has the highest number that there is: no version of {name!r} can be newer; choose "
            "another name, or order older ones with --rollback"
        )
    return max(int(now_s * 1000), before + 1)


def expiry(expires: str, now_s: float) -> int:
    """Return when what is signed for a time expires, in seconds since the epoch. Raises `ConfigError`."""
    if not expires:
        return 0
    span_s = parse_span(expires)
    if span_s is None or not 0 < now_s + span_s <= EXPIRES_MAX:
        raise ConfigError(f"--expires {expires[:80]!r} cannot be used: write how long from now, as in 90d or 12h")
    return int(now_s + span_s)


def said_of(fill: Path, made: Signatures) -> str:
    """Return what is said of signatures that were made."""
    statement = made.statement
    until = f", until {show_deadline(statement.expires)}" if statement.expires else ""
    count = plural(len(made.by), "signature")
    return f"signed    {printable(str(fill))}{SUFFIX} ({count}, number {statement.number}{until})"


def spelled(fill: Path, made: Signatures) -> dict[str, Any]:
    """Return the same for scripts."""
    statement = made.statement
    stated = {"number": statement.number, "expires": statement.expires}
    return {"signatures": f"{fill}{SUFFIX}", "count": len(made.by)} | stated


def signatures_beside(fill: Path, manifest: Manifest) -> Signatures | None:
    """Return the signatures that lie beside a manifest, None where none do.

    Raises `ConfigError`, and `SignatureError` where they are those of another title.
    """
    from p2pfill.trust.publishers import check_statement

    path = fill.with_name(fill.name + SUFFIX)
    try:
        with path.open("rb") as file:
            encoded = file.read(SIGNATURES_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read signatures {str(path)!r}: {error.strerror}") from error
    try:
        found = Signatures.decode(encoded)
        check_statement(found.statement, manifest.title_id, manifest.name)
    except SignatureError as error:
        # A tree that was published anew has other signatures, too.
        raise SignatureError(f"{str(path)!r} cannot be used: {error}; sign again with: p2pfill sign --anew") from error
    return found


def drop_others(fill: Path, manifest: Manifest) -> None:
    """Delete the signatures beside a manifest where they are of the one that lay there before."""
    try:
        signatures_beside(fill, manifest)
    except SignatureError:
        fill.with_name(fill.name + SUFFIX).unlink(missing_ok=True)


def encoded_beside(fill: Path, manifest: Manifest) -> bytes:
    """Return them encoded, as a tracker takes them; b'' where none lie there."""
    found = signatures_beside(fill, manifest)
    return b"" if found is None else found.encode()

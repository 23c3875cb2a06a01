"""Whether an identity would be let in: tried on itself, in memory, before anything goes by it."""

from __future__ import annotations

import ssl

from p2pfill.errors import PeerRefused
from p2pfill.model.identity import Role
from p2pfill.trust.credentials import CERT_FILE, KEY_FILE, Credentials


def fault_of(credentials: Credentials) -> str:
    """Return why others who trust the same authorities would refuse these credentials, '' where they would not."""
    try:
        client = _bare(credentials, ssl.PROTOCOL_TLS_CLIENT)
        credentials.peer(_shown_to(credentials.accepting, client))
        if credentials.identity.role is not Role.USER:
            server = _bare(credentials, ssl.PROTOCOL_TLS_SERVER)
            credentials.peer(_shown_to(credentials.connecting, server))
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (ssl.SSLError, PeerRefused) as error:
        return str(error)
    return ""


def _bare(credentials: Credentials, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Return a context that shows the certificate, and takes any."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(credentials.directory / CERT_FILE, credentials.directory / KEY_FILE)
    return context


def _shown_to(one: ssl.SSLContext, other: ssl.SSLContext) -> bytes | None:
    """Shake hands; return what `one` was shown by `other`. Raises `ssl.SSLError`."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    is_server = one.protocol == ssl.PROTOCOL_TLS_SERVER
    looking = one.wrap_bio(up, down, server_side=is_server)
    waiting = [other.wrap_bio(down, up, server_side=not is_server), looking]
    while waiting:
        end = waiting.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(end)
    return looking.getpeercert(binary_form=True)

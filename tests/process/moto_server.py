"""moto, which checks signatures in headers alone and fails at those in a query, taught to check these too.

They are computed with botocore, from what the request says and from the secret that moto has given to whom it names.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from moto.iam import access_control
from moto.server import main


class _Request(access_control.S3IAMRequest):
    def __init__(self, *, path: str, headers: Any, **named: Any) -> None:
        query = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))
        self._is_presigned = "X-Amz-Signature" in query
        if self._is_presigned:
            said = {"Credential": query["X-Amz-Credential"], "SignedHeaders": query["X-Amz-SignedHeaders"]}
            said["Signature"] = query.pop("X-Amz-Signature")
            path = f"{urlsplit(path).path}?{urlencode(query, quote_via=quote, safe='')}"
            headers = dict(headers.items())
            headers["Authorization"] = "AWS4-HMAC-SHA256 " + ", ".join(f"{key}={value}" for key, value in said.items())
            headers["X-Amz-Date"] = query["X-Amz-Date"]
            if "X-Amz-Security-Token" in query:
                headers["X-Amz-Security-Token"] = query["X-Amz-Security-Token"]
        super().__init__(path=path, headers=headers, **named)

    def _create_auth(self, credentials: Any) -> Any:
        if self._is_presigned:
            return S3SigV4QueryAuth(credentials, self._service, self._region)
        return super()._create_auth(credentials)

    def _create_aws_request(self) -> Any:
        if not self._is_presigned:
            return super()._create_aws_request()
        signed = {"host": self._headers["Host"]}  # and no other header, of those that obstore signs
        request = AWSRequest(method=self._method, url=self._path, headers=signed)
        request.context["timestamp"] = self._headers["X-Amz-Date"]
        return request


if __name__ == "__main__":
    access_control.S3IAMRequest = _Request
    main(sys.argv[1:])

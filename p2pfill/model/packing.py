"""Reading msgpack that may be broken or hostile: one value at a time, within limits that are set before the first.
And what goes wrong with JSON that is.

msgpack makes room for a whole array as soon as it has read the array's header. Nested, a few kilobytes of headers could
so ask for gigabytes. So readers take the headers of long arrays by themselves (`read_array_header`, which makes no
room), unpack the elements one by one, and allow arrays below that only as long as an element is.

`msgspec.convert` then checks the types. It must be given `AS_THEY_ARE`: it would take text for base64 of bytes.
Decoding straight into records, as control messages are, was rejected here: it makes all files of a manifest before the
first is looked at, which takes more memory than the title does (`docs/experiments.md`, Codecs).
"""

from __future__ import annotations

import io
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import msgspec

AS_THEY_ARE: Final = (bytes,)
"""`builtin_types` for `msgspec.convert`: bytes are bytes and text is text."""

READ_BYTES: Final = 64 * 1024
"""What the unpacker takes at a time: it keeps a copy of so much, and of the longest value."""

UNPACK_ERRORS: Final = (ValueError, msgpack.UnpackException)
"""What an unpacker raises for bytes that are no msgpack, end too early, or break a limit; text that is no UTF-8 too.
`msgspec.ValidationError` is a `ValueError` as well."""

JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What `msgspec.json.decode` raises for bytes that are not JSON of a type: for texts that are no UTF-8, and arrays in
arrays of arrays where nobody looks, no `DecodeError`."""


def open_unpacker(data: bytes, *, str_bytes_max: int, bin_bytes_max: int, array_len_max: int) -> Any:
    """Return a `msgpack.Unpacker` over `data` that knows no maps and no extension types.

    Arrays come as tuples. Its methods raise `UNPACK_ERRORS`.
    """
    return msgpack.Unpacker(
        io.BytesIO(data),
        read_size=READ_BYTES,
        raw=False,
        use_list=False,
        max_buffer_size=max(len(data), READ_BYTES),
        max_str_len=str_bytes_max,
        max_bin_len=bin_bytes_max,
        max_array_len=array_len_max,
        max_map_len=0,
        max_ext_len=0,
        ext_hook=_refuse_extension,
    )


def _refuse_extension(code: int, _data: bytes) -> None:
    # One without data keeps every limit, and would come as a pair.
    raise ValueError(f"extension types are not known here, nor is {code}")

"""Publishers for tests: keys, and what is signed with them."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.statement import Signatures, Statement
from p2pfill.store.publish import publish
from p2pfill.trust.signing import public_word, sign


class Studio:
    """A publisher."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = Ed25519PrivateKey.generate()

    @property
    def word(self) -> str:
        return public_word(self.key)

    def sign(
        self, title_id: bytes, name: str = "film", number: int = 1, expires: int = 0, before: Signatures | None = None
    ) -> Signatures:
        return sign(self.key, Statement(title_id, name, number, expires), before)


def write_publishers(directory: Path, *studios: Studio, threshold: int = 1, titles: str = "*", more: str = "") -> None:
    """Let a directory's publishers.toml have one rule, for these publishers; `more` stands in it."""
    names = sorted({studio.name for studio in studios})
    text = "".join(f'[[publishers]]\nname = "{one.name}"\nkey = "{one.word}"\n' for one in studios)
    text += f'[[rules]]\ntitles = "{titles}"\npublishers = {names}\nthreshold = {threshold}\n{more}\n'
    staged = directory / "publishers.toml.new"
    staged.write_text(text)
    staged.rename(directory / "publishers.toml")


class Film:
    """A version of a title, with its origin."""

    def __init__(self, root: Path, version: str, name: str = "film", size: int = 300_000) -> None:
        self.origin = root / f"src-{name}-{version}"
        self.origin.mkdir()
        (self.origin / "a.bin").write_bytes(version.encode() * (size // len(version)))
        self.manifest: Manifest = publish(self.origin, name=name).manifest
        self.title_id: TitleId = self.manifest.title_id
        self.title = self.title_id.hex()
        self.encoded = self.manifest.encode()

    def signed(self, *studios: Studio, number: int = 1, expires: int = 0) -> bytes:
        """Return its signatures, encoded."""
        made: Signatures | None = None
        for studio in studios:
            made = studio.sign(self.title_id, self.manifest.name, number, expires, made)
        return b"" if made is None else made.encode()

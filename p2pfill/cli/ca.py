"""`p2pfill ca`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson, DryRun

DAYS_MAX = 3650
"""Of a certificate that is signed here: with ten years it would not end in practice."""
ROOT_DAYS_MAX = 36500

app = typer.Typer(
    help="The fleet's certificates: who is in it, until when, and who not any more.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
)

CaDirectory = Annotated[
    Path,
    typer.Option("--ca", metavar="DIR", envvar="P2PFILL_CA", help="The authority, as `p2pfill ca init` has made it."),
]
HERE = Path("ca")
Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Where everybody's directory lies: DIR/NAME/{cert,key,ca,revoked}.pem."),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Who, as listed in fleet.toml.")]
Days = Annotated[
    int, typer.Option("--days", metavar="DAYS", min=1, max=DAYS_MAX, help="For how long certificates are to be good.")
]
Within = Annotated[
    int, typer.Option("--within", metavar="DAYS", min=0, help="What ends within so many days is to be renewed.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before what cannot be taken back.")]


@app.command("init", epilog=EXIT_CODES_HELP)
def init(
    new: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that is not there yet, or is empty.")],
    domain: Annotated[
        str,
        typer.Option("--domain", metavar="DOMAIN", help="The fleet's name, as in fleet.example; it stays for good."),
    ],
    root_days: Annotated[
        int,
        typer.Option("--root-days", metavar="DAYS", min=1, max=ROOT_DAYS_MAX, help="How long the root is to be good."),
    ] = 3650,
    as_json: AsJson = False,
) -> None:
    """Make an authority: a root's key and certificate, and the list of the fleet, to be written by you.

    Keep DIR where nothing of the fleet runs. Who has the key in it can be anybody in the fleet.
    """
    from p2pfill.cli.authority import make_authority

    make_authority(new, domain, root_days, as_json=as_json)


@app.command("issue", epilog=EXIT_CODES_HELP)
def issue(
    out: Out,
    authority: CaDirectory = HERE,
    names: Names = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="All who are listed and have no certificate that is good.")
    ] = False,
    csr: Annotated[
        Path | None,
        typer.Option("--csr", metavar="FILE", help="Sign for the public key of this request, and for nothing else."),
    ] = None,
    days: Days = 90,
    as_json: AsJson = False,
) -> None:
    """Give those who are listed a directory with key and certificate, for `--identity` of their machine.

    Names, places and hosts come from fleet.toml. A key that lies in DIR/NAME already is kept, unless its certificate
    was revoked. Again is harmless.
    """
    from p2pfill.cli.authority import issue_certificates

    issue_certificates(authority, out, names or [], days, everybody=everybody, csr=csr, as_json=as_json)


@app.command("renew", epilog=EXIT_CODES_HELP)
def renew(
    out: Out,
    authority: CaDirectory = HERE,
    names: Names = None,
    within: Within = 30,
    days: Days = 90,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Draw new keys, too, but for those whose key was made elsewhere.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign anew what ends soon, is of the old root, or says other than fleet.toml.

    Keys stay, so only cert.pem must be carried over; what runs takes it in by itself. The certificate before is good
    until its end.
    """
    from p2pfill.cli.authority import renew_certificates

    renew_certificates(authority, out, names or [], days, within=within, new_key=new_key, as_json=as_json)


@app.command("revoke", epilog=EXIT_CODES_HELP)
def revoke(
    what: Annotated[
        str, typer.Argument(metavar="NAME|SERIAL", help="All certificates of somebody, or the start of one's serial.")
    ],
    authority: CaDirectory = HERE,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take certificates back before they end, for good. Writes revoked.pem, and says how it reaches the machines."""
    from p2pfill.cli.authority import revoke_certificates

    revoke_certificates(authority, what, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command("rotate", epilog=EXIT_CODES_HELP)
def rotate(
    authority: CaDirectory = HERE,
    switch: Annotated[
        bool, typer.Option("--switch", help="Second: let the new root sign, once all machines trust it.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Last: drop the old root, once all certificates are of the new one.")
    ] = False,
    root_days: Annotated[
        int,
        typer.Option("--root-days", metavar="DAYS", min=1, max=ROOT_DAYS_MAX, help="How long a new root is good."),
    ] = 3650,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change the root, in three steps between which files go to the machines.

    First, without options: ca.pem has both roots, and goes to all. Then --switch, and `p2pfill ca renew`: cert.pem goes
    to all. Last, --finish.
    """
    from p2pfill.cli.authority import rotate_root

    if switch and finish:
        raise typer.BadParameter("give either --switch or --finish: between them certificates go to the machines")
    rotate_root(
        authority, "switch" if switch else "finish" if finish else "begin", root_days, dry_run=dry_run, yes=yes,
        as_json=as_json,
    )  # fmt: skip


@app.command("show", epilog=EXIT_CODES_HELP)
def show(
    authority: CaDirectory = HERE,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what has ended, and what was renewed and is good still.")
    ] = False,
    within: Within = 30,
    as_json: AsJson = False,
) -> None:
    """List who has a certificate, until when, who is revoked, and what is to be done."""
    from p2pfill.cli.authority import show_authority

    show_authority(authority, within=within, everything=everything, as_json=as_json)


@app.command("check", epilog=EXIT_CODES_HELP)
def check(
    identity: Annotated[
        Path, typer.Argument(metavar="DIR", help="An identity: cert.pem, key.pem, ca.pem, and revoked.pem if anything.")
    ],
    as_json: AsJson = False,
) -> int:
    """Say whom an identity names, until when, and whether others would let it in: exit code 5 where not.

    Needs no authority: it looks at directories that another one has made, too.
    """
    from p2pfill.cli.authority import check_identity_directory

    return check_identity_directory(identity, as_json=as_json)

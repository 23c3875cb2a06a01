"""The commands, their arguments and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from p2pfill._version import __version__
from p2pfill.cli import bench, ca, keys, manage, night, plan, policy
from p2pfill.cli.calling import set_identity
from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson, Expires, Files, FilesFrom, Later, Number, TrackerUrl

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fill caches with titles: every cache takes each chunk from the nearest place that has it, first from caches "
        "of its own ISP, then from the region, and from the origin only what nobody else has.\n\n"
        "A first fill, on one machine:\n\n"
        "  p2pfill demo\n\n"
        "By hand, on one machine:\n\n"
        "  p2pfill publish ./film --name film --out film.fill\n\n"
        "  p2pfill tracker\n\n"
        "  p2pfill node --id a1 --isp isp-a --data cache-a1 --tracker http://127.0.0.1:7070\n\n"
        '  p2pfill fill film.fill --tracker http://127.0.0.1:7070 --origin "$PWD/film" --to all --wait\n\n'
        "  p2pfill status --tracker http://127.0.0.1:7070 --watch\n\n"
        "Between machines tracker, caches and people need certificates (p2pfill ca, and --identity), or --insecure."
    ),
    epilog=EXIT_CODES_HELP,
)

UntilEof = Annotated[
    bool, typer.Option("--until-eof", help="Stop when standard input ends, so as to die with the parent process.")
]
FillFile = Annotated[Path, typer.Argument(metavar="FILE.fill", help="A manifest that `p2pfill publish` wrote.")]

app.add_typer(bench.app, name="bench")
app.add_typer(manage.title, name="title")
app.add_typer(manage.fills, name="fills")
app.add_typer(manage.nodes, name="nodes")
app.add_typer(policy.app, name="policy")
app.add_typer(manage.route, name="route")
app.add_typer(manage.fleet, name="fleet")
app.add_typer(night.app, name="night")
app.add_typer(plan.app, name="plan")
app.add_typer(ca.app, name="ca")
app.add_typer(keys.app, name="key")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and whether the native module is in use, and exit.")
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            metavar="DIR",
            envvar="P2PFILL_IDENTITY",
            help="Who you are to a tracker that asks: the directory with your certificate and key.",
        ),
    ] = None,
) -> None:
    set_identity(identity)
    if version:
        from p2pfill.hot.lanes import NATIVE

        print(f"p2pfill {__version__} ({'native' if NATIVE else 'pure Python'})")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=EXIT_CODES_HELP)
def publish(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory with everything below it.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The title's name; caches serve it as live/NAME.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.fill", help="Where to write the manifest.")],
    chunk_size: Annotated[
        int | None,
        typer.Option("--chunk-size", metavar="BYTES", help="A power of two; by default chosen from the size."),
    ] = None,
    integrity: Annotated[
        Literal["blake3", "xxh3"],
        typer.Option("--integrity", help="What caches check each chunk with; xxh3 only where all caches are trusted."),
    ] = "blake3",
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="s3://BUCKET/PREFIX", help="Upload the files there too; that is then an origin."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Sign it with this key, into FILE.fill.sig.")
    ] = None,
    expires: Expires = "",
    number: Number = None,
    as_json: AsJson = False,
) -> None:
    """Make a title of a file or a directory: hash it on all cores and write its manifest.

    The files stay where they are. Any web server over PATH is then an origin for the title, and PATH itself is one for
    caches on this machine. The same files and times, and the same name, give the same title id everywhere.

    With --to they are also put into a bucket, but for those that lie there already, of the same size and younger.
    Credentials are found where other tools find them: AWS_ACCESS_KEY_ID and so on, a profile, the machine's role.
    """
    from p2pfill.cli.titles import publish_title

    publish_title(
        path, name, out, chunk_size=chunk_size, integrity=integrity, to=to, key=key, expires=expires, number=number,
        as_json=as_json,
    )  # fmt: skip


@app.command(epilog=EXIT_CODES_HELP)
def sign(
    fill_file: FillFile,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The key, as `p2pfill key new` makes it.")],
    expires: Expires = "",
    number: Number = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Make a new statement, with a new number; what others have signed goes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a manifest: add a signature to FILE.fill.sig, which `p2pfill fill` and `title add` send with it.

    Where others have signed already, the same is signed. To give it another expiry or number, say --anew.
    """
    from p2pfill.cli.signing import sign_title

    sign_title(fill_file, key, expires=expires, number=number, anew=anew, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def verify(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A tree of the title's files, such as a cache's DATA/live/NAME.")
    ],
    fill_file: FillFile,
    files: Files = None,
    files_from: FilesFrom = None,
    as_json: AsJson = False,
) -> None:
    """Compare every byte of a tree with a manifest. Changes nothing; exit code 1 where a byte is missing or wrong.

    With --files only these files must be there. What small files share with others that are not cannot be checked
    so; `p2pfill scrub` does.
    """
    from p2pfill.cli.titles import verify_title

    verify_title(directory, fill_file, files or [], files_from, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def files(
    fill_file: FillFile,
    patterns: Files = None,
    files_from: FilesFrom = None,
    as_json: AsJson = False,
) -> None:
    """List the files of a title, or those that --files means: what `p2pfill fill` would order with the same options."""
    from p2pfill.cli.titles import list_files

    list_files(fill_file, patterns or [], files_from, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def tracker(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; port 0 takes a free one.")
    ] = "127.0.0.1:7070",
    db: Annotated[
        str,
        typer.Option("--db", metavar="URL", help="sqlite:///FILE (four slashes before an absolute path)."),
    ] = "sqlite:///p2pfill-tracker.db",
    heartbeat_s: Annotated[
        float | None,
        typer.Option("--heartbeat", metavar="SECONDS", help="How often caches report; after 3 missed one is dead."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="A TOML file that says what origins cost.")
    ] = None,
    routes: Annotated[
        Path | None,
        typer.Option("--routes", metavar="FILE", help="A TOML file that says what routes cost; SIGHUP reads it anew."),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", metavar="DIR", help="Its certificate and key: calls are encrypted, and asked who."),
    ] = None,
    grants: Annotated[
        Path | None,
        typer.Option("--grants", metavar="FILE", help="With --identity: a TOML file that says which user may what."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine though no caller is asked who he is.")
    ] = False,
    until_eof: UntilEof = False,
    as_json: AsJson = False,
) -> None:
    """Run the tracker: the catalogue of titles, who shall hold them, who is alive, and the HTTP API to ask it.

    Prints its URL once it answers. SIGTERM or Ctrl-C stop it; caches go on filling from the sources they know, and
    report again when it is back. Try it with curl: GET /v1/status, and GET /openapi.json for everything else.
    """
    from p2pfill.cli.services import run_tracker

    run_tracker(
        listen, db, heartbeat_s=heartbeat_s, prices=prices, routes=routes, identity=identity, grants=grants,
        insecure=insecure, until_eof=until_eof, as_json=as_json,
    )  # fmt: skip


@app.command(epilog=EXIT_CODES_HELP)
def node(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A TOML file of the settings below; flags go first.")
    ] = None,
    node_id: Annotated[str | None, typer.Option("--id", help="The cache's name, unique in the fleet.")] = None,
    isp: Annotated[str | None, typer.Option("--isp", help="The network it stands in, by name or AS number.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="The site inside the ISP; for selectors.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="The region; default `default`.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Where the titles are kept.")] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where other caches reach it.")
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise",
            metavar="HOST[:PORT]",
            help="Where others are told to reach it, also a forwarded port; by default that of --listen.",
        ),
    ] = None,
    tracker_url: Annotated[
        str | None,
        typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker to report to."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="DIR",
            help="Its certificate and key: links and calls are encrypted, and both sides show who they are. It says "
            "--id, --isp, --region and --cluster too.",
        ),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Listen beyond this machine without --identity: all who reach it are trusted."),
    ] = None,
    encrypt_data: Annotated[
        bool | None,
        typer.Option(
            "--encrypt-data/--plain-data",
            help="With --identity: payload between this cache and others goes through TLS; by default it does where "
            "the other one is set so.",
        ),
    ] = None,
    serves: Annotated[
        str | None,
        typer.Option("--serves", metavar="isp", help="Give chunks to caches of its own ISP alone; by default to all."),
    ] = None,
    weight: Annotated[
        float | None, typer.Option("--weight", help="Upload capacity relative to other caches; default 1.")
    ] = None,
    latitude: Annotated[
        float | None, typer.Option("--latitude", metavar="DEGREES", help="Where it stands: degrees north.")
    ] = None,
    longitude: Annotated[
        float | None, typer.Option("--longitude", metavar="DEGREES", help="Where it stands: degrees east.")
    ] = None,
    upload_slots: Annotated[int | None, typer.Option("--upload-slots", help="Chunks sent at a time.")] = None,
    data_workers: Annotated[
        int | None, typer.Option("--data-workers", help="Threads between sockets and disk.")
    ] = None,
    drop_pages: Annotated[
        bool | None,
        typer.Option(
            "--drop-pages/--keep-pages",
            help="Whether titles leave the page cache once no other cache asks for them; by default they stay.",
        ),
    ] = None,
    background: Annotated[
        bool | None,
        typer.Option(
            "--background/--foreground",
            help="Fill takes only what viewers leave of the link and of the processors; by default it does not yield.",
        ),
    ] = None,
    free_bytes_min: Annotated[
        int | None,
        typer.Option("--free-min", metavar="BYTES", help="Below that titles that no order wants go; default 1 GiB."),
    ] = None,
    in_use_command: Annotated[
        str | None,
        typer.Option("--in-use-command", metavar="COMMAND", help="Prints which titles viewers use; those do not go."),
    ] = None,
    scrub_bytes_s: Annotated[
        int | None,
        typer.Option("--scrub-rate", metavar="BYTES", help="Bytes a second to look at for rot; 0: not at all."),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            "--windows",
            metavar="TIMETABLE",
            help="When to fill, as in 'Europe/Berlin Mon-Fri-02:00,1.2G 08:00,off'; by default always.",
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option("--rates", metavar="RATE", help="Bytes a second that may come in, such as 150MiB or 1.2Gbit."),
    ] = None,
    origins_allow: Annotated[
        list[str] | None,
        typer.Option(
            "--origins-allow",
            metavar="PLACE",
            help="A host (*.cdn.example), an address, a range (10.1.0.0/16) or s3://BUCKET where origins may be; may "
            "be given many times. By default anywhere but this machine and places that are never meant.",
        ),
    ] = None,
    origin_dir: Annotated[
        list[str] | None,
        typer.Option(
            "--origin-dir",
            metavar="DIR",
            help="A directory below which origins may lie; may be given many times. By default any on loopback, else "
            "none.",
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="DIR", help="Where to record what each fill decides; see `sim --replay`."),
    ] = None,
    until_eof: UntilEof = False,
    as_json: AsJson = False,
) -> None:
    """Run a cache: it takes its orders from the tracker, fills titles and serves their chunks to other caches.

    Finished titles are plain files below DATA/live/NAME, which any web server can serve. SIGTERM or Ctrl-C stop it
    cleanly; started again with the same --data it goes on where it was, and fetches nothing twice.

    A configuration file has one line a setting: identity = "/etc/p2pfill/identity", data = "/srv/cache", listen =
    "10.0.0.11:7400", tracker = "https://…". Without an identity it has id = "a1" and isp = "isp-a", too.
    """
    # What has a name of its own here is a setting of `NodeConfig` else.
    flags = {**locals(), "id": node_id, "tracker": tracker_url}
    apart = {"config", "node_id", "tracker_url", "until_eof", "as_json"}
    given = {name: value for name, value in flags.items() if value not in (None, []) and name not in apart}
    from p2pfill.cli.services import run_node

    run_node(config, given, until_eof=until_eof, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def fill(
    fill_file: FillFile,
    tracker_url: TrackerUrl,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="SELECTOR",
            help="Which caches: `all`, or KEY=PATTERN with id, isp, cluster or region; `*` matches anything, "
            "`+` is and, `,` is or. Example: isp=isp-a+region=eu,id=hub1",
        ),
    ],
    origin: Annotated[
        list[str] | None,
        typer.Option(
            "--origin", metavar="URL", help="Base URL (or directory) of the published tree; may be given many times."
        ),
    ] = None,
    files: Files = None,
    files_from: FilesFrom = None,
    later: Annotated[
        bool,
        typer.Option("--later", help="Order also where no running cache matches: for those that start later."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress and return when all caches hold it.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.0, help="With --wait: exit code 4 after that.")
    ] = None,
    priority: Annotated[
        int, typer.Option("--priority", help="Larger is more urgent: other titles of a cache wait meanwhile.")
    ] = 0,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline",
            metavar="TIME",
            help="When all should hold it, as 2030-01-31T06:00:00Z, or +90m from now; of one priority the earlier "
            "goes first.",
        ),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Out of cycle: do not wait for the caches' fill windows.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Show it though a version that was signed later was shown before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fill caches with a title: hand its manifest to the tracker and order it for all caches that match.

    Caches that start later and match are added; where none that runs matches, nothing is ordered (exit code 2), unless
    --later says so. Asking for the same again renews the order; with another priority or
    deadline, the most urgent of a title's fills counts, also while it runs.
    """
    from p2pfill.cli.fill import order_fill

    order_fill(
        fill_file,
        tracker_url,
        origin or [],
        to,
        files=files or [],
        files_from=files_from,
        priority=priority,
        deadline=deadline,
        now=now,
        rollback=rollback,
        later=later,
        wait=wait,
        timeout_s=timeout_s,
        as_json=as_json,
    )


@app.command(epilog=EXIT_CODES_HELP)
def limit(
    tracker_url: TrackerUrl,
    nodes: Annotated[
        str, typer.Argument(metavar="[SELECTOR]", help="Which caches: an id, or a selector as for `fill --to`.")
    ] = "",
    rates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RATE...]",
            help="RATE for all that comes in, or in=RATE, out=RATE, in.TIER=RATE, out.TIER=RATE; a TIER is peer, "
            "regional or origin, a RATE as 150MiB or 1.2Gbit.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="The limit of this selector stands no more.")] = False,
    later: Later = False,
    as_json: AsJson = False,
) -> None:
    """Limit how fast caches receive and send, at once and until it is cleared; without a SELECTOR show all limits.

    It holds for caches that start later, too, and over restarts of the tracker. Of this and of a cache's own limits,
    the tightest holds.
    """
    from p2pfill.cli.limit import limit_nodes

    limit_nodes(nodes, rates or [], tracker_url, clear=clear, later=later, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def scrub(
    title: Annotated[
        str, typer.Argument(metavar="[TITLE]", help="A title's name, its id, or the start of that.")
    ] = "",
    nodes: Annotated[
        str, typer.Option("--node", metavar="ID|SELECTOR", help="Which caches; by default all that hold the title.")
    ] = "all",
    tracker_url: Annotated[
        str, typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Look at the data directory of a node that is not running instead."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all caches hold it whole again.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.0, help="With --wait: exit code 4 after that.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look whether what caches hold of a title is still right, every byte of it, and repair what is not.

    What is bad is fetched anew from other caches and origins, while viewers are served the rest; so caches also do by
    themselves, at a low rate. With --data no tracker is needed: what is bad of the titles there (or of TITLE) is shown
    and noted, and the node fetches it anew when it is started. `p2pfill verify` compares any tree with a manifest, and
    changes nothing.
    """
    from p2pfill.cli.scrub import scrub_directory, scrub_fleet

    if data is not None:
        scrub_directory(data, title, as_json=as_json)
    elif not title or not tracker_url:
        raise typer.BadParameter("give a TITLE and --tracker URL, or --data DIR")
    else:
        scrub_fleet(title, nodes, tracker_url, wait=wait, timeout_s=timeout_s, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def windows(
    timetable: Annotated[
        str,
        typer.Argument(
            metavar="[TIMETABLE]", help="As in 'Europe/Berlin Mon-Fri-02:00,1.2G 08:00,off'; off: nothing is filled."
        ),
    ] = "",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Show those of a node's configuration instead.")
    ] = None,
    tracker_url: Annotated[
        str,
        typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="Or whether running caches are open."),
    ] = "",
    days: Annotated[int, typer.Option("--days", metavar="N", help="How many days of a timetable to show.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Show what a timetable of fill windows means in the next days, or whether the caches of a fleet are open now.

    Nothing is changed. Outside of its windows a cache serves what it has and fetches nothing, but for repairs and for
    fills that are ordered with --now.
    """
    from p2pfill.cli.windows import show_fleet_hours, show_windows

    if timetable or config is not None:
        show_windows(timetable, config, days, as_json=as_json)
    elif tracker_url:
        show_fleet_hours(tracker_url, as_json=as_json)
    else:
        raise typer.BadParameter("give a TIMETABLE, --config FILE or --tracker URL")


@app.command(epilog=EXIT_CODES_HELP)
def status(
    tracker_url: TrackerUrl,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="With --watch: how often.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show the fleet: caches, fills, one line a cache, bytes by tier. With --watch --json: one object a line."""
    from p2pfill.cli.fleet import show_status

    show_status(tracker_url, watch=watch, interval_s=interval_s, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def audit(
    tracker_url: TrackerUrl,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many, the latest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who has changed what: titles, orders, withdrawals, policies, limits, nodes."""
    from p2pfill.cli.audit import show_audit

    show_audit(tracker_url, count, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def explain(
    node_id: Annotated[str, typer.Argument(metavar="NODE", help="A cache's id.")],
    title: Annotated[str, typer.Argument(metavar="TITLE", help="A title's name, id, or the start of its id.")],
    tracker_url: TrackerUrl,
    as_json: AsJson = False,
) -> None:
    """Say why a cache is where it is with a title.

    Where each byte came from, what it waits for, which sources it could use in which order and why, why a source was
    refused, and why chunks were taken from further out than planned.
    """
    from p2pfill.cli.fleet import show_explanation

    show_explanation(node_id, title, tracker_url, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def demo(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file or directory of yours; by default files are generated."),
    ] = None,
    size_mib: Annotated[
        int, typer.Option("--size", metavar="MIB", min=1, help="How much to generate where no PATH is given.")
    ] = 512,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work", metavar="DIR", help="Where to put the caches' data meanwhile; needs seven titles' room."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave data and logs where they are, to look at.")] = False,
    night: Annotated[
        bool, typer.Option("--night", help="Watch a night instead: nine caches in three time zones, in a minute.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Watch a plan instead: a week of viewing, the next day planned and filled.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="With --night or --plan: draw it into a PNG or SVG file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a fill on this machine: an origin, a tracker and seven caches as processes of their own.

    Two ISPs of three caches each and a regional one. Publishes a title, fills it to all seven while showing where the
    bytes come from, verifies every byte on disk, prints a summary and removes everything. PATH is only read.

    With --json the last line of the output is one object: title_bytes, caches, completed, verified, makespan_s,
    bytes_by_tier, origin_copies, isp_copies, duplicate_bytes, escalations.
    """
    if plot is not None and not (night or plan):
        raise typer.BadParameter("--plot goes with --night or --plan")
    if night and plan:
        raise typer.BadParameter("--night and --plan are two demos: choose one")
    if (night or plan) and path is not None:
        raise typer.BadParameter("--night and --plan make their own titles: leave PATH out")
    if plan:
        from p2pfill.cli.demo_plan import run_plan

        run_plan(work=work, plot=plot, keep_work=keep, as_json=as_json)
        return
    if night:
        from p2pfill.cli.demo_night import run_night

        run_night(work=work, plot=plot, keep=keep, as_json=as_json)
        return
    from p2pfill.cli.demo import run_demo

    run_demo(path, size=size_mib * 1024 * 1024, work=work, keep=keep, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def sim(
    scenario: Annotated[
        Path | None,
        typer.Argument(metavar="[SCENARIO.toml]", help="A scenario, or a topology of the lab (bench/topologies)."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same run.")] = 0,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="FIRST:END", help="Run all of these, and stop at the first that fails."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="With --seeds: processes.")] = 1,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write every decision and fault there.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="Play what `p2pfill node --record` wrote instead, and compare."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a fill: the code that decides and speaks in a fleet, over a model of its network, in virtual time.

    Faults come from the scenario and from the seed. What must always hold is checked at every step; where it does not,
    the exit code is 1 and the message ends with the command that repeats the run.
    """
    from p2pfill.cli.sim import replay_file, run_sim

    if (replay is None) == (scenario is None):
        raise typer.BadParameter("give either a scenario or --replay FILE")
    if replay is not None:
        replay_file(replay, as_json=as_json)
    elif scenario is not None:
        run_sim(scenario, seed, seeds, jobs=jobs, trace_file=trace, as_json=as_json)



"""The entry point: reads options and configuration, runs the daemon until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import click

from vmferry import __version__
from vmferry.errors import VmferryError

try:
    import uvloop

    from vmferryd import allocator, app, telemetry
    from vmferryd.config import Config, load
    from vmferryd.jobs.journal import Witness
except ModuleNotFoundError as missing:
    sys.exit(f"vmferryd needs the daemon's own packages ({missing.name} is missing): pip install 'vmferry[daemon]'")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="TOML file; options override it.")
@click.option(
    "--listen", multiple=True, metavar="URI", help="Where to answer: vmferry+unix:///path, +tcp:// or +tls://host:port."
)
@click.option("--advertise", metavar="URI", help="Where others reach this daemon; by default the first TLS place, else TCP.")
@click.option(
    "--certificates", type=click.Path(path_type=Path, file_okay=False), help="Folder that `vmferry pki issue host` made."
)
@click.option("--insecure", is_flag=True, default=None, help="Allow TCP without TLS on an address that others can reach.")
@click.option("--state-directory", type=click.Path(path_type=Path), help="The journal lives here.")
@click.option("--run-directory", type=click.Path(path_type=Path), help="Guests' sockets and logs live here.")
@click.option("--host-name", help="The name that others are told.")
@click.option(
    "--host-uuid", help="Two daemons on one machine need different ones; by default each state directory has its own."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--log-json", is_flag=True, default=None, help="Log JSON lines.")
@click.option("--check-config", is_flag=True, help="Say what is wrong with the configuration, and end.")
@click.version_option(__version__, prog_name="vmferryd")
def main(path: Path | None, *, check_config: bool, log_level: str | None, log_json: bool | None, **options: Any) -> None:
    """Run one host's half of vmferry: guests, and the phases of their migrations, as gRPC services.

    SIGTERM stops serving and leaves guests running; the next start finds them again.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    log = {name: value for name, value in (("level", log_level), ("json_lines", log_json)) if value is not None}
    try:
        config = load(path, given | ({"log": log} if log else {}))
        if check_config:
            click.echo("the configuration is good")
            return
        telemetry.configure(config.log)
        allocator.keep_freed_memory()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(config))
    except VmferryError as error:
        click.echo(f"vmferryd: {error}", err=True)
        if error.remedy:
            click.echo(f"  what to do: {error.remedy}", err=True)
        sys.exit(1)


async def serve(config: Config, witness: Witness | None = None) -> None:
    """The daemon has run until SIGTERM or SIGINT. `witness` sees each write to its journal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with app.running(config, witness=witness):
        await stop.wait()


if __name__ == "__main__":
    main()

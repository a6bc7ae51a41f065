"""vmferry: the client half: contract, engine, client library and command line."""

from vmferry.client import Connection, connect
from vmferry.errors import VmferryError
from vmferry.flags import Flag
from vmferry.migrate import Migrated
from vmferry.params import MigrationParams

__version__ = "0.1.0"

__all__ = ["Connection", "Flag", "Migrated", "MigrationParams", "VmferryError", "__version__", "connect"]

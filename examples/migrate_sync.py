"""The same for scripts that are not asynchronous: `python examples/migrate_sync.py web SOURCE_URI DESTINATION_URI`."""

import sys

from vmferry import Flag
from vmferry.sync import connect

domain, source_uri, destination_uri = sys.argv[1:]
with connect(source_uri) as source, connect(destination_uri) as destination:
    done = source.migrate(domain, destination, flags=Flag.LIVE)
    for event in destination.watch(done.migration_id):
        print(event.job.phase, event.job.state)
    print(domain, "is", destination.domain(domain).state)

"""Side-by-side measurements: what vmferry adds to QEMU's own time, and what its tunnel carries. `make bench`.

=============  ==================================================================================================
`guests`       the guests that are moved, and the ways to move them
`by_hand`      QEMU driven over QMP, with nobody between
`by_vmferry`   the same guest moved by the program `vmferry`, between two daemons
`traced`       the same, by QEMUs that trace what they do, apart from the moves that are compared
`inside`       what a pause consists of, from those traces; pure
`relay`        one end of a tunnel: a daemon as it is, with memory in a hypervisor's place; started by `tunnel`
`tunnel`       how much a tunnel carries, and how fast its daemon answers meanwhile
`figures`      medians, ratios and targets; pure
`picture`      the ratios as an SVG; pure
=============  ==================================================================================================
"""

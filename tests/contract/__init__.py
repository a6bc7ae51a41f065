"""One suite for every driver: what `vmferryd.drivers.base` promises."""

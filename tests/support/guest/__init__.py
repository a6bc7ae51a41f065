"""A guest that can tell the truth about its own migration; see README.md."""

from support.guest.build import GuestImage, GuestSettings, GuestUnavailable, build_guest, kernel_command_line

__all__ = ["GuestImage", "GuestSettings", "GuestUnavailable", "build_guest", "kernel_command_line"]

"""The upgrade: another version of the program takes over in the same process. Starts in `upgrade`."""

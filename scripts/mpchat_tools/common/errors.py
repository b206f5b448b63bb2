"""What goes wrong with a tool, as opposed to what a tool finds wrong."""


class ToolError(Exception):
    """The run was not possible: no server, too few descriptors, or a process of ours died."""

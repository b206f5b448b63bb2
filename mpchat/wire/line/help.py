"""The help of the line dialect: the list of commands, and what is told about one of them."""

from mpchat.chat.events import Failed
from mpchat.chat.problems import Problem
from mpchat.wire.line.commands import COMMANDS, find_command, nearest_command


def explain(topic: str) -> list[str] | Failed:
    """The lines that answer ``/help TOPIC``, or what is wrong with the topic. An empty one lists all commands."""
    if not topic:
        lines = [f"* {command.usage:<22} {command.summary}" for command in COMMANDS]
        return ["* What you type is said in your room. Commands:", *lines, "* /help COMMAND explains one."]
    command = find_command(topic)
    if command is None:
        return Failed(Problem.UNKNOWN_COMMAND, nearest_command(topic), topic)
    short = f" (short: {', '.join('/' + word for word in command.short)})" if command.short else ""
    return [f"* {command.usage}{short}", f"* {command.summary[0].upper()}{command.summary[1:]}. {command.details}"]


def show_usage(name: str) -> str:
    """What may follow the command called `name`; the name itself if there is no such command."""
    command = find_command(name)
    return name if command is None else command.usage

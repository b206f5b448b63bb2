"""What the chat is: names, commands, entries, events, history and the replica. Pure: no I/O, no clock, no chance.

Everything here may be called in any process, any number of times, and gives the same answer.
"""

"""The line dialect: what people at `nc`, `telnet` or `mpchat-client` type and see.

docs/reference/line-protocol.md describes it.

`framing` turns bytes into lines, `commands` lines into requests, `words` events into lines, `help` explains commands,
and `dialect` puts them together.
"""

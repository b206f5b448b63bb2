"""The rules of the chat: one function for each kind of request, and one table of them.

A rule gets the state, the session that asks, the request, and the time in ms since the epoch. It changes the state and
returns the effects in order. It may raise Refusal, which the session is told, but only before it has changed anything.
"""

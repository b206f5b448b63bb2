"""The client for people at a terminal: a kept input line, under which what comes in scrolls by.

    chat ---> editor                      the conversation, over connections after one another; the input line
     └-----> painting -> reading          lines with colours; what a line of the server is
     ├-----> roster                       who and what there is, as far as the lines have shown it
     ├-----> completion, outgoing         what Tab offers; what becomes of what is typed or pasted
     └-----> reconnecting                 when to try again
    painting -> wrapping, colors;  editor -> glyphs

All but `chat` and `editor` are pure. Only `editor` imports prompt_toolkit, of the extra `client`. What is read from the
server's lines serves looks and completion: a line that is not understood is shown as it is.
"""

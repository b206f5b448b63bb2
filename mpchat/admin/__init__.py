"""`mpchat-admin`: what whoever runs a server does with its data directory. Standard library only."""

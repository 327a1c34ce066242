"""Error feedback in messages: what devices and the server remember of each other."""

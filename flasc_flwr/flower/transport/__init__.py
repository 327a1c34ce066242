"""SparseTransport: what travels between any Flower strategy and its clients.

From the bottom up: a `parcel` is an ArrayRecord as it travels, and `base` what the
update in a parcel is added to. On the client, `answer` opens what comes and packs what
goes. On the server, `dispatch` encodes the content of messages, a `round_trip` is one
exchange of messages, `streaming` reduces replies one by one, and `strategy` puts it all
around the inner strategy; `grid` does so for one that runs a loop of its own.
"""

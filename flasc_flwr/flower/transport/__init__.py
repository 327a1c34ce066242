"""The parts of SparseTransport: what travels between a strategy and its clients.

From the bottom up: `form` says which arrays of an ArrayRecord the payload holds.
`download_parcel` and `upload_parcel` pack and open such a record, each way. On the
device, `client` decodes what arrives and encodes the reply. On the server,
`encoded_content` encodes what a strategy sends, `incoming_reply` reads one reply,
`round_trip` does both for all messages of a round, and `streaming_mean` averages
replies one by one. `encoding_grid` is for strategies that run their own round loop.
"""

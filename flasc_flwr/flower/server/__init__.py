"""The server's vector: what is sent of it, how it steps, how it is evaluated."""

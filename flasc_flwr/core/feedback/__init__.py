"""Error feedback: what a message leaves out is remembered, and sent later."""

from hypothesis import settings

# Machines of CI are slow now and then, and numpy's first calls always are.
settings.register_profile("codec", deadline=None)
settings.load_profile("codec")

"""The application: tasks, training, reports and the command line."""

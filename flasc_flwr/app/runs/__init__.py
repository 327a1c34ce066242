"""Run the app in this process or in many, and evaluate what runs saved."""

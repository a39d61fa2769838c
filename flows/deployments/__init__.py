"""What can be run and scheduled from Prefect's UI: flows with their forms, and deployed specs."""

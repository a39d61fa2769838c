"""What a flow will do, settled before anything is computed."""

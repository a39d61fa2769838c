"""The short forms of the general deployments, and the choices in them that follow the registry."""

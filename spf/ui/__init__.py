"""The page: presentation only. `build.build(service)` puts it together; every panel is a function taking the service."""

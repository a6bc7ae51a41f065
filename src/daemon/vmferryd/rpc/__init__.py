"""The gRPC surface: servers, interceptors, one thin module for each service."""

//! gRPC services, auth, config and the composition root.

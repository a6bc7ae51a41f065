"""What a guest is: libvirt's domain XML as a typed model, and the pure decisions taken on it."""

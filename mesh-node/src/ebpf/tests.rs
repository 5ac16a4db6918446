//! Against the real kernel, as root.

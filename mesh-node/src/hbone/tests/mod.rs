//! Whole tunnels over loopback sockets.

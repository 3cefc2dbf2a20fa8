//! The listener, attacked from outside: real sockets, real handshakes, and what the server says about whom it refused.
//!
//! In TLS 1.3 a client learns late and in racing words that it was refused, so these tests ask the server: its log line, its counter, and
//! the order in which it refused.

mod access;
mod bearer;
mod hostile;
mod joining;
mod members;
mod support;

//! The process's log: how it is, and lines that a peer could cause at will.

mod health;
mod throttle;

pub use health::LogHealth;
pub(crate) use throttle::LogThrottle;
